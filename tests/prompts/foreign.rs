//! A server that is neither ours nor OpenSSH's, with passwords and codes.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};

/// A russh server in a thread of its own: password `xyzzy-42` alone, or asked for
/// with a code that goes up with each use. With the password alone, some users may have a key.
pub(crate) struct Foreign {
    pub(crate) port: u16,
    pub(crate) state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Who is let in with any key.
    pub(crate) with_key: Option<String>,
    /// Keys refused.
    pub(crate) keys: AtomicUsize,
    /// Codes accepted.
    pub(crate) codes: AtomicUsize,
    /// Logins begun with a password or with answers.
    pub(crate) begun: AtomicUsize,
}

#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) state: Arc<State>,
    has_password: bool,
}

impl Foreign {
    pub(crate) fn start(wants_code: bool) -> Self {
        let methods = if wants_code {
            MethodKind::KeyboardInteractive
        } else {
            MethodKind::Password
        };
        Self::start_with(&[methods], State::default())
    }

    pub(crate) fn start_with(methods: &[MethodKind], state: State) -> Self {
        let state = Arc::new(state);
        let config = Arc::new(russh::server::Config {
            keys: vec![
                PrivateKey::from_openssh(include_str!("../../keys/host_cert")).expect("a key"),
            ],
            methods: MethodSet::from(methods),
            auth_rejection_time: std::time::Duration::ZERO,
            inactivity_timeout: None,
            ..Default::default()
        });
        let (tell, port) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a port");
                let address = listener.local_addr().expect("it is bound");
                tell.send(address.port()).expect("somebody waits");
                let serve = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        let login = Login {
                            state: Arc::clone(&state),
                            has_password: false,
                        };
                        tokio::spawn(russh::server::run_stream(
                            Arc::clone(&config),
                            socket,
                            login,
                        ));
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            port: port.recv().expect("it listens"),
            state: kept,
            _stop: stop,
        }
    }
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(if self.state.with_key.as_deref() == Some(user) {
            Auth::Accept
        } else {
            self.state.keys.fetch_add(1, Ordering::Relaxed);
            Auth::reject()
        })
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.state.begun.fetch_add(1, Ordering::Relaxed);
        Ok(if password == "xyzzy-42" {
            Auth::Accept
        } else {
            Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::Password][..])),
                partial_success: false,
            }
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let ask = |text: &'static str| Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(""),
            prompts: Cow::Owned(vec![(Cow::Borrowed(text), false)]),
        };
        let Some(mut response) = response else {
            self.state.begun.fetch_add(1, Ordering::Relaxed);
            self.has_password = false;
            return Ok(ask("Password: "));
        };
        let answer = response.next().map(|answer| answer.to_vec());
        if !self.has_password {
            self.has_password = answer.as_deref() == Some(b"xyzzy-42");
            return Ok(if self.has_password {
                ask("Verification code: ")
            } else {
                Auth::reject()
            });
        }
        let expected = self.state.codes.load(Ordering::Relaxed).to_string();
        if answer.as_deref() != Some(expected.as_bytes()) {
            return Ok(Auth::reject());
        }
        self.state.codes.fetch_add(1, Ordering::Relaxed);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let text = command.strip_prefix(b"echo ").unwrap_or(command).to_vec();
        session.channel_success(channel)?;
        session.data(channel, text)?;
        session.exit_status_request(channel, 0)?;
        session.eof(channel)?;
        session.close(channel)
    }
}
