//! The messages of a body (gRPC over HTTP/2, `Length-Prefixed-Message`): a flag, the length, and the message.
//!
//! Architecture invariant: knows neither methods nor the content of messages.

use bytes::{Buf as _, Bytes};
use h2::RecvStream;
use prost::Message;
use tonic::Status;

/// Length of the bytes before a message: the flag and the length.
const PREFIX: usize = 5;

/// The longest message, as grpc-go has it. The engine decides how much it accepts.
const LONGEST: usize = i32::MAX as usize;

/// How many bytes are the start of a message. A busy connection has room for a few bytes only, so the first DATA frame can
/// be shorter.
const START: usize = 1024;

/// Returns a message with its prefix.
///
/// # Errors
/// If the message is too long.
pub(crate) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let too_long = || Status::resource_exhausted(format!("the answer has {length} bytes, which is too long"));
    let mut framed = Vec::with_capacity(PREFIX + length);
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(length).map_err(|_| too_long())?.to_be_bytes());
    message.encode(&mut framed).map_err(|_| too_long())?;
    Ok(framed.into())
}

/// Decodes a message.
///
/// # Errors
/// If it is malformed. The error never quotes it.
pub(crate) fn decode<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    T::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// The messages of one body, as they arrive. The host may send as much as the plugin has read.
pub(crate) struct Messages {
    body: RecvStream,
    /// Bytes that have arrived and belong to the next message.
    arrived: Bytes,
}

impl Messages {
    pub(super) fn new(body: RecvStream) -> Self {
        Self { body, arrived: Bytes::new() }
    }

    /// Returns the next message, or `None` at the end of the body.
    ///
    /// # Errors
    /// If the body is malformed, or if the host has reset the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        match self.length().await? {
            Some(length) => self.message(length).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads the prefix of the next message. Returns the message's length, or `None` at the end of the body.
    pub(super) async fn length(&mut self) -> Result<Option<usize>, Status> {
        self.fill(PREFIX).await?;
        match self.arrived.len() {
            0 => return Ok(None),
            PREFIX.. => {}
            _ => return Err(cut_off()),
        }
        if self.arrived.get_u8() != 0 {
            return Err(Status::unimplemented("the message is compressed, which the plugin does not support"));
        }
        let length = self.arrived.get_u32() as usize;
        if length > LONGEST {
            return Err(Status::resource_exhausted(format!("the message has {length} bytes, which is too long")));
        }
        Ok(Some(length))
    }

    /// Returns the first bytes of the current message, or all of it if it is short.
    pub(super) async fn start(&mut self, length: usize) -> Result<&[u8], Status> {
        self.fill(length.min(START)).await?;
        Ok(&self.arrived[..self.arrived.len().min(length)])
    }

    /// Returns the current message, whose length is known.
    pub(super) async fn message(&mut self, length: usize) -> Result<Bytes, Status> {
        if self.arrived.len() >= length {
            return Ok(self.arrived.split_to(length));
        }
        let mut message = Vec::new();
        loop {
            let part = self.arrived.split_to(self.arrived.len().min(length - message.len()));
            // The memory grows with the bytes that have arrived, not with the length that the host has announced.
            if message.capacity() - message.len() < part.len() {
                let size = (2 * message.len()).max(message.len() + part.len()).min(length);
                message.reserve_exact(size - message.len());
            }
            message.extend_from_slice(&part);
            if message.len() == length {
                return Ok(message.into());
            }
            self.arrived = self.part().await?.ok_or_else(cut_off)?;
        }
    }

    /// Waits until so many bytes have arrived, or the body has ended.
    async fn fill(&mut self, count: usize) -> Result<(), Status> {
        while self.arrived.len() < count {
            match self.part().await? {
                Some(part) if self.arrived.is_empty() => self.arrived = part,
                Some(part) => self.arrived = [&self.arrived[..], &part].concat().into(),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Waits for the next DATA frame.
    async fn part(&mut self) -> Result<Option<Bytes>, Status> {
        match self.body.data().await {
            Some(Ok(part)) => {
                // Fails only if the stream is gone.
                let _ = self.body.flow_control().release_capacity(part.len());
                Ok(Some(part))
            }
            Some(Err(error)) => Err(Status::cancelled(format!("the body of the call broke off: {error}"))),
            None => Ok(None),
        }
    }
}

fn cut_off() -> Status {
    Status::internal("the body ended in the middle of a message")
}
