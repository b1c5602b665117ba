//! One question to one DNS server (RFC 1035): over UDP, and over TCP if the answer was cut short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::{A, Aaaa};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// More than enough: if a client announces no size, a server sends at most 512 bytes over UDP (RFC 1035, section 4.2.1).
const DATAGRAM: usize = 4096;

/// A question for the addresses of a name.
pub(super) struct Query(Message<Vec<u8>>);

/// The answer of a server.
pub(super) struct Answer {
    pub(super) rcode: Rcode,
    /// The addresses of the name. If the name is an alias, the addresses of its target.
    pub(super) addresses: Vec<IpAddr>,
}

impl Query {
    /// Returns a question with a random id, of type `A` or `AAAA`.
    pub(super) fn new(name: &Name<Vec<u8>>, rtype: Rtype) -> Self {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(uuid::Uuid::new_v4().as_u128() as u16);
        message.header_mut().set_rd(true);
        let mut question = message.question();
        // This cannot fail: a vector has room for any name.
        let _ = question.push((name, rtype));
        Self(question.into_message())
    }

    /// Returns a message if it answers this question. A server that refuses may leave out the question.
    fn answered_by(&self, bytes: &[u8]) -> Option<Message<Vec<u8>>> {
        let message = Message::from_octets(bytes.to_vec()).ok()?;
        let (header, counts) = (message.header(), message.header_counts());
        let refuses = counts.qdcount() == 0 && header.rcode() != Rcode::NOERROR;
        let is_refusal = refuses && header.qr() && header.id() == self.0.header().id();
        (is_refusal || message.is_answer(&self.0)).then_some(message)
    }
}

impl Answer {
    fn read(message: &Message<Vec<u8>>) -> Self {
        Self { rcode: message.header().rcode(), addresses: addresses(message).unwrap_or_default() }
    }
}

/// Asks a server.
///
/// # Errors
/// When the server cannot be reached. If the server does not answer, this waits forever.
pub(super) async fn exchange(server: SocketAddr, query: &Query, tcp_only: bool) -> io::Result<Answer> {
    if !tcp_only {
        let answer = over_udp(server, query).await?;
        if !answer.header().tc() {
            return Ok(Answer::read(&answer));
        }
    }
    Ok(Answer::read(&over_tcp(server, query).await?))
}

async fn over_udp(server: SocketAddr, query: &Query) -> io::Result<Message<Vec<u8>>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // After `connect`, the kernel drops datagrams from other senders and reports a closed port at once.
    socket.connect(server).await?;
    socket.send(query.0.as_slice()).await?;
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut datagram).await?;
        // Any other message is late or forged.
        if let Some(answer) = query.answered_by(&datagram[..length]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Query) -> io::Result<Message<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    let query_bytes = query.0.as_slice();
    // This cannot be cut off: a name has at most 255 bytes, so a question is far smaller than 64 KiB.
    let framed = [&(query_bytes.len() as u16).to_be_bytes(), query_bytes].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    query.answered_by(&answer).ok_or_else(|| io::Error::other("it answered another question"))
}

/// Returns the addresses in an answer; `None` if the answer cannot be parsed.
fn addresses(message: &Message<Vec<u8>>) -> Option<Vec<IpAddr>> {
    let name = message.canonical_name()?;
    let answer = message.answer().ok()?;
    let v4 = answer.limit_to_in::<A>().flatten().filter(|record| *record.owner() == name);
    let v6 = answer.limit_to_in::<Aaaa>().flatten().filter(|record| *record.owner() == name);
    let v4 = v4.map(|record| IpAddr::from(record.data().addr()));
    Some(v4.chain(v6.map(|record| record.data().addr().into())).collect())
}
