//! A DNS server with a configured behaviour for each name: it answers, fails, does not answer, or truncates its
//! answers.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use domain::base::iana::{Rcode, Rtype};
use domain::base::message_builder::AnswerBuilder;
use domain::base::{Message, MessageBuilder, Name, Ttl};
use domain::rdata::{A, Aaaa, Cname};

/// How the server answers questions about one name.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// With these addresses: IPv4 addresses for `A`, IPv6 addresses for `AAAA`.
    Has(Vec<IpAddr>),
    /// With an alias and its addresses.
    IsAlias(&'static str, Vec<IpAddr>),
    /// Over TCP with these addresses. Over UDP without addresses, and with the flag for a truncated answer.
    IsLong(Vec<IpAddr>),
    /// Like another behaviour, but without an answer to questions for IPv6 addresses.
    DropsIpv6(Box<Behaviour>),
    /// With these addresses, after forged answers: with a wrong id, with a wrong question, and not a DNS message.
    AfterForgeries(Vec<IpAddr>),
    /// With an error.
    Fails(Rcode),
    /// With an error that leaves out the question.
    Refuses,
    /// With no message at all.
    Silent,
}

/// Names in lower case, without the final dot, and their behaviour. For all other names, the server answers that they
/// do not exist.
pub(crate) type Zone = Vec<(&'static str, Behaviour)>;

/// A DNS server on UDP and TCP. It stops when it is dropped.
pub(crate) struct Dns {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Script {
    behaviours: HashMap<&'static str, Behaviour>,
    asked: Arc<Mutex<Vec<String>>>,
    end: Arc<AtomicBool>,
}

impl Dns {
    /// Starts a server on an address; `None` if the address is taken.
    pub(crate) fn start(address: SocketAddr, zone: &Zone) -> Option<Self> {
        let udp = UdpSocket::bind(address).ok()?;
        let address = udp.local_addr().ok()?;
        let tcp = TcpListener::bind(address).ok()?;
        let (asked, end) = (Arc::default(), Arc::default());
        let script = Arc::new(Script {
            behaviours: zone.iter().cloned().collect(),
            asked: Arc::clone(&asked),
            end: Arc::clone(&end),
        });
        let over_tcp = script.clone();
        let threads = vec![
            std::thread::spawn(move || script.serve_udp(&udp)),
            std::thread::spawn(move || over_tcp.serve_tcp(&tcp)),
        ];
        Some(Self { address, asked, end, threads })
    }

    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the questions so far, such as `a.test A`, or `a.test A TCP` for a question over TCP.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        // Both threads wait for input. Send something to each thread, so that it sees `end`.
        if let Ok(socket) = UdpSocket::bind((self.address.ip(), 0)) {
            let _ = socket.send_to(b"", self.address);
        }
        if let Ok(stream) = TcpStream::connect(self.address) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Script {
    fn serve_udp(&self, socket: &UdpSocket) {
        let mut bytes = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut bytes) {
            if self.end.load(Ordering::Acquire) {
                return;
            }
            for answer in self.answers(&bytes[..length], false) {
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.end.load(Ordering::Acquire) {
                return;
            }
            // If a client hangs up, only its connection fails.
            let _ = stream.and_then(|mut stream| {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question)?;
                for answer in self.answers(&question, true) {
                    stream.write_all(&(answer.len() as u16).to_be_bytes())?;
                    stream.write_all(&answer)?;
                }
                Ok(())
            });
        }
    }

    /// Returns the messages that answer a question.
    fn answers(&self, question: &[u8], tcp: bool) -> Vec<Vec<u8>> {
        let Ok(message) = Message::from_octets(question.to_vec()) else { return Vec::new() };
        let Ok(asked) = message.sole_question() else { return Vec::new() };
        let (name, rtype) = (asked.qname().to_string().to_lowercase(), asked.qtype());
        let over = if tcp { " TCP" } else { "" };
        self.asked.lock().expect("no panic").push(format!("{name} {rtype}{over}"));
        let answer = |rcode, addresses: &[IpAddr]| answer(&message, rcode, None, addresses, rtype);
        let behaviour = match self.behaviours.get(name.as_str()) {
            Some(Behaviour::DropsIpv6(_)) if rtype == Rtype::AAAA => return Vec::new(),
            Some(Behaviour::DropsIpv6(inner)) => Some(&**inner),
            behaviour => behaviour,
        };
        match behaviour {
            None => vec![answer(Rcode::NXDOMAIN, &[])],
            Some(Behaviour::Has(addresses)) => vec![answer(Rcode::NOERROR, addresses)],
            Some(Behaviour::IsAlias(alias, addresses)) => {
                vec![self::answer(&message, Rcode::NOERROR, Some(alias), addresses, rtype)]
            }
            Some(Behaviour::IsLong(addresses)) if tcp => vec![answer(Rcode::NOERROR, addresses)],
            Some(Behaviour::IsLong(_)) => {
                let mut short = answer(Rcode::NOERROR, &[]);
                short[2] |= 2;
                vec![short]
            }
            Some(Behaviour::AfterForgeries(addresses)) => {
                let (mut id, mut other) = (answer(Rcode::NXDOMAIN, &[]), answer(Rcode::NXDOMAIN, &[]));
                id[0] ^= 1;
                other[13] ^= 1;
                vec![b"nonsense".into(), id, other, answer(Rcode::NOERROR, addresses)]
            }
            Some(Behaviour::Fails(rcode)) => vec![answer(*rcode, &[])],
            Some(Behaviour::Refuses) => {
                // Only a header, whose count of questions is zero.
                let mut header = answer(Rcode::REFUSED, &[])[..12].to_vec();
                header[5] = 0;
                vec![header]
            }
            Some(Behaviour::Silent | Behaviour::DropsIpv6(_)) => Vec::new(),
        }
    }
}

fn answer(
    question: &Message<Vec<u8>>,
    rcode: Rcode,
    alias: Option<&str>,
    addresses: &[IpAddr],
    rtype: Rtype,
) -> Vec<u8> {
    let mut answer = MessageBuilder::new_vec().start_answer(question, rcode).expect("room");
    let mut owner: Name<Vec<u8>> = {
        let question = question.sole_question().expect("a question");
        question.qname().to_string().parse().expect("a name")
    };
    if let Some(alias) = alias {
        let alias: Name<Vec<u8>> = alias.parse().expect("a name");
        answer.push((&owner, Ttl::from_secs(60), Cname::new(&alias))).expect("room");
        owner = alias;
    }
    for address in addresses {
        push(&mut answer, &owner, *address, rtype);
    }
    answer.finish()
}

fn push(answer: &mut AnswerBuilder<Vec<u8>>, owner: &Name<Vec<u8>>, address: IpAddr, rtype: Rtype) {
    let ttl = Ttl::from_secs(60);
    match address {
        IpAddr::V4(address) if rtype == Rtype::A => answer.push((owner, ttl, A::new(address))).expect("room"),
        IpAddr::V6(address) if rtype == Rtype::AAAA => answer.push((owner, ttl, Aaaa::new(address))).expect("room"),
        _ => {}
    }
}
