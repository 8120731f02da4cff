//! Client of an ssh-agent (draft-miller-ssh-agent): which keys it holds, and signatures of them.
//!
//! Keys are passed on as bytes: what kind of key an agent holds, in a file, a security key or a
//! smart card, is between it and the server. One that nobody here can parse hides no other.

use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::{Reader, Truncated, WriteExt as _};

/// Largest answer read, as in OpenSSH.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Most keys taken from one list, as in OpenSSH.
const MAX_KEYS: u32 = 2048;
/// How long an agent may take to list its keys, for which it needs nobody. One behind a stalled
/// connection never answers.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

const RSA_SHA2_256: u32 = 0x02;
const RSA_SHA2_512: u32 = 0x04;

/// Why an agent is of no use.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// It cannot be reached or has gone.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not answer.
    #[error("no answer within {} s", LIST_TIMEOUT.as_secs())]
    TimedOut,
    /// It will not: it is locked, does not hold the key, or somebody declined.
    #[error("the agent refuses")]
    Refused,
    /// It signed in another way than it was asked to, as old agents do with RSA.
    #[error("the agent signed in another way than asked")]
    OtherAlgorithm,
    /// What it says is no answer.
    #[error("the agent's answer makes no sense")]
    Malformed,
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

/// A connection to an agent.
pub(super) struct Agent<IO = UnixStream> {
    stream: IO,
}

impl Agent {
    /// Connects to the agent at `socket` and asks for the public keys and certificates it holds, in
    /// its order.
    pub(super) async fn open(socket: &Path) -> Result<(Self, Vec<Vec<u8>>), Error> {
        let opened = async {
            let mut agent = Self {
                stream: UnixStream::connect(socket).await?,
            };
            let keys = agent.keys().await?;
            Ok((agent, keys))
        };
        timeout(LIST_TIMEOUT, opened)
            .await
            .map_err(|_| Error::TimedOut)?
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Agent<IO> {
    async fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        parse_keys(&self.ask(&[REQUEST_IDENTITIES]).await?)
    }

    /// Has `data` signed with `key` (a public key or certificate as the agent lists it) by the
    /// signature algorithm called `algorithm`. Takes as long as the person needs who is asked.
    pub(super) async fn sign(
        &mut self,
        key: &[u8],
        algorithm: &str,
        data: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let flags = match algorithm {
            "rsa-sha2-256" => RSA_SHA2_256,
            "rsa-sha2-512" => RSA_SHA2_512,
            _ => 0,
        };
        let mut request = vec![SIGN_REQUEST];
        request.put_string(key).put_string(data).put_uint32(flags);
        parse_signature(&self.ask(&request).await?, algorithm)
    }

    async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut framed = Vec::with_capacity(4 + request.len());
        framed.put_string(request);
        self.stream.write_all(&framed).await?;
        let length = self.stream.read_u32().await? as usize;
        if length > MAX_ANSWER_BYTES {
            return Err(Error::Malformed);
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

fn parse_keys(answer: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = Reader::new(answer);
    match reader.u8()? {
        IDENTITIES_ANSWER => {}
        FAILURE => return Err(Error::Refused),
        _ => return Err(Error::Malformed),
    }
    let count = reader.u32()?;
    if count > MAX_KEYS {
        return Err(Error::Malformed);
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(reader.string()?.to_vec());
        let _comment = reader.string()?;
    }
    Ok(keys)
}

fn parse_signature(answer: &[u8], algorithm: &str) -> Result<Vec<u8>, Error> {
    let mut reader = Reader::new(answer);
    match reader.u8()? {
        SIGN_RESPONSE => {}
        FAILURE => return Err(Error::Refused),
        _ => return Err(Error::Malformed),
    }
    let signature = reader.string()?;
    if Reader::new(signature).string()? != algorithm.as_bytes() {
        return Err(Error::OtherAlgorithm);
    }
    Ok(signature.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(number: u8, fields: &[&[u8]]) -> Vec<u8> {
        let mut answer = vec![number];
        for field in fields {
            answer.put_string(*field);
        }
        answer
    }

    #[test]
    fn keys_are_listed_whatever_they_are() {
        let mut list = vec![IDENTITIES_ANSWER];
        list.put_uint32(2).put_string("blob").put_string("name");
        list.put_string(b"\xff\x00").put_string(b"\xfe not UTF-8");
        assert_eq!(
            parse_keys(&list).unwrap(),
            [b"blob".to_vec(), vec![0xff, 0x00]]
        );
        assert!(matches!(parse_keys(&[FAILURE]), Err(Error::Refused)));
        for cut in 0..list.len() {
            assert!(matches!(parse_keys(&list[..cut]), Err(Error::Malformed)));
        }
    }

    #[test]
    fn a_signature_is_the_one_asked_for() {
        let mut signature = Vec::new();
        // A security key appends what it signed beside the data.
        signature
            .put_string("sk-ssh-ed25519@openssh.com")
            .put_string("sig")
            .put_byte(1)
            .put_uint32(7);
        let signed = answer(SIGN_RESPONSE, &[&signature]);
        let parsed = parse_signature(&signed, "sk-ssh-ed25519@openssh.com").unwrap();
        assert_eq!(parsed, signature);
        assert!(matches!(
            parse_signature(&signed, "ssh-ed25519"),
            Err(Error::OtherAlgorithm)
        ));
        assert!(matches!(
            parse_signature(&[FAILURE], "ssh-ed25519"),
            Err(Error::Refused)
        ));
    }

    #[tokio::test]
    async fn the_request_has_the_form_of_the_draft() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut agent = Agent { stream: near };
        let foreign = async {
            let mut request = vec![0; 4 + 1 + 4 + 1 + 4 + 2 + 4];
            far.read_exact(&mut request).await.unwrap();
            assert_eq!(
                request,
                [
                    0, 0, 0, 16, 13, 0, 0, 0, 1, b'k', 0, 0, 0, 2, b'd', b'd', 0, 0, 0, 4
                ]
            );
            far.write_all(&[0, 0, 0, 1, 5]).await.unwrap();
            let mut request = [0; 5];
            far.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 1, 11]);
            far.write_all(&[0xff, 0, 0, 0]).await.unwrap();
        };
        let asked = async {
            let refused = agent.sign(b"k", "rsa-sha2-512", b"dd").await;
            assert!(matches!(refused, Err(Error::Refused)));
            assert!(matches!(agent.keys().await, Err(Error::Malformed)));
        };
        tokio::join!(foreign, asked);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_answer_makes_it_panic(answer in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_keys(&answer);
            let _ = parse_signature(&answer, "ssh-ed25519");
        }
    }
}
