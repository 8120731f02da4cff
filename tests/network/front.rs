//! TLS before the emulator, which speaks none itself.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// An authority that nobody trusts who was not told to.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, for `AWS_CA_BUNDLE`.
    pub(crate) pem: String,
}

/// A certificate with its key, both in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    config: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// An identity for `names`.
    pub(crate) fn identity(&self, names: &[&str]) -> Identity {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("names that can be certified");
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("the versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private.into())
            .expect("key and certificate belong together");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            config: Arc::new(config),
        }
    }
}

/// What a front has seen pass towards the emulator and back, in the clear.
type Seen = Arc<Mutex<Vec<u8>>>;

/// Takes connections on all addresses and passes them on to a port of this computer.
pub(crate) struct Front {
    pub(crate) port: u16,
    seen: Seen,
    runtime: Option<Runtime>,
}

impl Front {
    /// In front of `port`, with TLS as `identity` or without.
    pub(crate) fn start(port: u16, identity: Option<&Identity>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("0.0.0.0:0"))
            .expect("a port");
        let own = listener.local_addr().expect("a bound socket").port();
        let seen = Seen::default();
        let acceptor = identity.map(|identity| TlsAcceptor::from(Arc::clone(&identity.config)));
        runtime.spawn(serve(listener, acceptor, port, Arc::clone(&seen)));
        Self {
            port: own,
            seen,
            runtime: Some(runtime),
        }
    }

    /// What has passed so far, as far as it is text.
    pub(crate) fn seen(&self) -> String {
        let seen = self.seen.lock().expect("no panic under the lock");
        String::from_utf8_lossy(&seen).into_owned()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, port: u16, seen: Seen) {
    while let Ok((near, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let far = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
            match acceptor {
                Some(acceptor) => join(acceptor.accept(near).await?, far, seen).await,
                None => join(near, far, seen).await,
            }
            std::io::Result::Ok(())
        });
    }
}

async fn join(near: impl AsyncRead + AsyncWrite, far: TcpStream, seen: Seen) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::join!(
        carry(near_read, far_write, &seen),
        carry(far_read, near_write, &seen)
    );
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seen: &Seen) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        seen.lock().expect("no panic under the lock").extend(bytes);
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Writes `text` into `directory` and returns the path as text.
pub(crate) fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("our own directory");
    path.display().to_string()
}
