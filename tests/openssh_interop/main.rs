//! Our SSH connections against OpenSSH, in both roles.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and says why"
)]

mod channel;
mod client;
mod credentials;
mod endpoint;
mod host_keys;
mod misuse;
mod server;
mod sshd;

use std::path::{Path, PathBuf};

/// Whether `program` is there. Where it is not, a test is skipped at the desk and fails in CI.
fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .chain([PathBuf::from("/usr/sbin")])
        .any(|directory| directory.join(program).is_file());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is missing"
    );
    if !found {
        println!("skipped: {program} is missing");
    }
    found
}

/// A file of the test keys.
fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("keys")
        .join(name)
}

/// Copies a test key, its public key and its certificate into `directory`, with the modes that ssh
/// insists on and Git does not keep.
fn copy_key(name: &str, directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;

    for suffix in ["", ".pub", "-cert.pub"] {
        let file = format!("{name}{suffix}");
        let source = key_file(&file);
        if source.exists() {
            let copy = directory.join(file);
            std::fs::copy(source, &copy).unwrap();
            std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    directory.join(name)
}

/// The text of a public key file.
fn public(name: &str) -> String {
    let text = std::fs::read_to_string(key_file(name)).unwrap();
    text.trim_end().to_owned()
}

/// Bytes that do not compress and do not repeat, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
