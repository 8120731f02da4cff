//! Pseudo terminals: opened as a client asks, with its modes (RFC 4254 §8) and its size.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    Winsize,
};

use super::channel::TerminalSize;
use crate::ssh::wire::{Reader, Truncated};

/// Both ends of a pseudo terminal, before a process has it.
pub(super) struct Terminal {
    pub(super) master: pty_process::Pty,
    pub(super) slave: pty_process::Pts,
    /// A second handle of the master, for [`resize`] while others read and write.
    pub(super) control: Arc<OwnedFd>,
    /// Path of the slave's device, for `SSH_TTY`.
    pub(super) path: OsString,
}

impl Terminal {
    /// Opens a terminal of `size` with the encoded `modes`.
    pub(super) fn open(size: TerminalSize, modes: &[u8]) -> io::Result<Self> {
        let (master, slave) = pty_process::open().map_err(io::Error::other)?;
        let path = rustix::pty::ptsname(&master, Vec::new())?;
        let mut termios = rustix::termios::tcgetattr(&slave)?;
        // Modes that end early are taken as far as they go, as sshd does.
        let _ = apply_modes(&mut termios, modes);
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &termios)?;
        resize(&master, size)?;
        Ok(Self {
            control: Arc::new(master.as_fd().try_clone_to_owned()?),
            master,
            slave,
            path: OsString::from_vec(path.into_bytes()),
        })
    }
}

/// Tells the terminal its size; processes in its foreground get `SIGWINCH`.
pub(super) fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    // Cut off to what the kernel keeps, as sshd does.
    let low = |value: u32| value as u16;
    Ok(rustix::termios::tcsetwinsize(
        terminal,
        Winsize {
            ws_row: low(size.rows),
            ws_col: low(size.columns),
            ws_xpixel: low(size.width_pixels),
            ws_ypixel: low(size.height_pixels),
        },
    )?)
}

/// What one opcode sets.
enum Mode {
    Code(SpecialCodeIndex),
    Input(InputModes),
    Output(OutputModes),
    Control(ControlModes),
    Local(LocalModes),
    InputSpeed,
    OutputSpeed,
}

/// The modes that this system has. Only Linux still knows terminals without lower case.
fn mode(opcode: u8) -> Option<Mode> {
    use SpecialCodeIndex as Code;
    Some(match opcode {
        1 => Mode::Code(Code::VINTR),
        2 => Mode::Code(Code::VQUIT),
        3 => Mode::Code(Code::VERASE),
        4 => Mode::Code(Code::VKILL),
        5 => Mode::Code(Code::VEOF),
        6 => Mode::Code(Code::VEOL),
        7 => Mode::Code(Code::VEOL2),
        8 => Mode::Code(Code::VSTART),
        9 => Mode::Code(Code::VSTOP),
        10 => Mode::Code(Code::VSUSP),
        12 => Mode::Code(Code::VREPRINT),
        13 => Mode::Code(Code::VWERASE),
        14 => Mode::Code(Code::VLNEXT),
        18 => Mode::Code(Code::VDISCARD),
        30 => Mode::Input(InputModes::IGNPAR),
        31 => Mode::Input(InputModes::PARMRK),
        32 => Mode::Input(InputModes::INPCK),
        33 => Mode::Input(InputModes::ISTRIP),
        34 => Mode::Input(InputModes::INLCR),
        35 => Mode::Input(InputModes::IGNCR),
        36 => Mode::Input(InputModes::ICRNL),
        #[cfg(target_os = "linux")]
        37 => Mode::Input(InputModes::IUCLC),
        38 => Mode::Input(InputModes::IXON),
        39 => Mode::Input(InputModes::IXANY),
        40 => Mode::Input(InputModes::IXOFF),
        41 => Mode::Input(InputModes::IMAXBEL),
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        42 => Mode::Input(InputModes::IUTF8),
        50 => Mode::Local(LocalModes::ISIG),
        51 => Mode::Local(LocalModes::ICANON),
        #[cfg(target_os = "linux")]
        52 => Mode::Local(LocalModes::XCASE),
        53 => Mode::Local(LocalModes::ECHO),
        54 => Mode::Local(LocalModes::ECHOE),
        55 => Mode::Local(LocalModes::ECHOK),
        56 => Mode::Local(LocalModes::ECHONL),
        57 => Mode::Local(LocalModes::NOFLSH),
        58 => Mode::Local(LocalModes::TOSTOP),
        59 => Mode::Local(LocalModes::IEXTEN),
        60 => Mode::Local(LocalModes::ECHOCTL),
        61 => Mode::Local(LocalModes::ECHOKE),
        62 => Mode::Local(LocalModes::PENDIN),
        70 => Mode::Output(OutputModes::OPOST),
        #[cfg(target_os = "linux")]
        71 => Mode::Output(OutputModes::OLCUC),
        72 => Mode::Output(OutputModes::ONLCR),
        73 => Mode::Output(OutputModes::OCRNL),
        74 => Mode::Output(OutputModes::ONOCR),
        75 => Mode::Output(OutputModes::ONLRET),
        90 => Mode::Control(ControlModes::CS7),
        91 => Mode::Control(ControlModes::CS8),
        92 => Mode::Control(ControlModes::PARENB),
        93 => Mode::Control(ControlModes::PARODD),
        128 => Mode::InputSpeed,
        129 => Mode::OutputSpeed,
        _ => return None,
    })
}

/// Sets the encoded `modes` in `termios`, up to the first opcode without meaning (RFC 4254 §8).
fn apply_modes(termios: &mut Termios, modes: &[u8]) -> Result<(), Truncated> {
    const TTY_OP_END: u8 = 0;
    /// Opcodes from here on have no defined argument.
    const UNDEFINED: u8 = 160;
    /// A special character that is switched off, as it is on the wire.
    const DISABLED: u32 = 255;

    let mut fields = Reader::new(modes);
    while !fields.is_empty() {
        let opcode = fields.u8()?;
        if opcode == TTY_OP_END || opcode >= UNDEFINED {
            break;
        }
        let value = fields.u32()?;
        let on = value != 0;
        match mode(opcode) {
            Some(Mode::Code(index)) => {
                termios.special_codes[index] = if value == DISABLED {
                    0
                } else {
                    value.to_be_bytes()[3]
                };
            }
            Some(Mode::Input(flag)) => termios.input_modes.set(flag, on),
            Some(Mode::Output(flag)) => termios.output_modes.set(flag, on),
            Some(Mode::Local(flag)) => termios.local_modes.set(flag, on),
            // A character size is a choice of one: CS7 off means nothing.
            Some(Mode::Control(size @ (ControlModes::CS7 | ControlModes::CS8))) => {
                let others = termios.control_modes.difference(ControlModes::CSIZE);
                termios.control_modes = if on {
                    others | size
                } else {
                    termios.control_modes
                };
            }
            Some(Mode::Control(flag)) => termios.control_modes.set(flag, on),
            // A speed that the system does not know is left as it is: a pseudo terminal has none.
            Some(Mode::InputSpeed) => drop(termios.set_input_speed(value)),
            Some(Mode::OutputSpeed) => drop(termios.set_output_speed(value)),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::wire::WriteExt;

    #[tokio::test]
    async fn modes_and_size_are_applied() {
        let mut modes = Vec::new();
        modes.put_byte(1).put_uint32(7); // VINTR
        modes.put_byte(2).put_uint32(255); // VQUIT, disabled
        modes.put_byte(53).put_uint32(0); // ECHO
        modes.put_byte(37).put_uint32(0); // IUCLC, which is not ICRNL
        modes.put_byte(129).put_uint32(38400);
        modes.put_byte(0);
        modes.put_byte(51).put_uint32(0); // ICANON, after the end
        let size = TerminalSize {
            columns: 132,
            rows: 50,
            width_pixels: 1320,
            height_pixels: 70_000,
        };

        let terminal = Terminal::open(size, &modes).unwrap();
        let termios = rustix::termios::tcgetattr(&terminal.slave).unwrap();
        assert_eq!(termios.special_codes[SpecialCodeIndex::VINTR], 7);
        assert_eq!(termios.special_codes[SpecialCodeIndex::VQUIT], 0);
        assert!(!termios.local_modes.contains(LocalModes::ECHO));
        assert!(termios.input_modes.contains(InputModes::ICRNL));
        assert!(termios.local_modes.contains(LocalModes::ICANON));
        assert_eq!(termios.output_speed(), 38400);
        let size = rustix::termios::tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!(
            (size.ws_col, size.ws_row, size.ws_xpixel, size.ws_ypixel),
            (132, 50, 1320, 4464)
        );
        assert!(terminal.path.to_string_lossy().starts_with("/dev/"));
    }

    #[tokio::test]
    async fn any_bytes_are_modes() {
        for modes in [
            &[][..],
            &[1],
            &[1, 0, 0],
            &[160, 1],
            &[255],
            &[90, 0, 0, 0, 1, 91],
        ] {
            Terminal::open(TerminalSize::default(), modes).unwrap();
        }
    }
}
