//! Packets by hand, in a directory of their own.

use proptest::prelude::*;

use super::*;

struct Client {
    server: Server,
    home: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut client = Self {
            server: Server::new(home.path()),
            home,
        };
        let version = client.send(fxp::INIT, &3_u32.to_be_bytes()).unwrap();
        assert_eq!(version[..5], [fxp::VERSION, 0, 0, 0, 3]);
        client
    }

    /// Sends a packet and returns the answer without its length.
    fn send(&mut self, kind: u8, fields: &[u8]) -> Result<Vec<u8>, Error> {
        let mut output = Vec::new();
        self.server
            .handle(&[&[kind][..], fields].concat(), &mut output)?;
        let length = u32::from_be_bytes(output[..4].try_into().unwrap()) as usize;
        assert_eq!(length, output.len() - 4);
        Ok(output.split_off(4))
    }

    /// Sends a request and returns type and fields of the answer, the id being right.
    fn ask(&mut self, kind: u8, fields: &[u8]) -> (u8, Vec<u8>) {
        let answer = self
            .send(kind, &[b"\x00\x00\x00\x09", fields].concat())
            .unwrap();
        assert_eq!(answer[1..5], *b"\x00\x00\x00\x09");
        (answer[0], answer[5..].to_vec())
    }

    /// The status of a request that has nothing else to give.
    fn status(&mut self, kind: u8, fields: &[u8]) -> u32 {
        let (kind, fields) = self.ask(kind, fields);
        assert_eq!(kind, fxp::STATUS);
        Reader::new(&fields).u32().unwrap()
    }

    fn extended(&mut self, name: &str, fields: &[u8]) -> (u8, Vec<u8>) {
        let mut request = strings(&[name]);
        request.put_raw(fields);
        self.ask(fxp::EXTENDED, &request)
    }

    fn open(&mut self, path: &str, flags: u32) -> Vec<u8> {
        let mut fields = strings(&[path]);
        fields.put_uint32(flags).put_uint32(0);
        let (kind, handle) = self.ask(fxp::OPEN, &fields);
        assert_eq!(kind, fxp::HANDLE);
        handle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

fn strings(strings: &[&str]) -> Vec<u8> {
    let mut fields = Vec::new();
    for string in strings {
        fields.put_string(string);
    }
    fields
}

const OK: u32 = Status::Ok as u32;
const EOF: u32 = Status::Eof as u32;
const NO_SUCH_FILE: u32 = Status::NoSuchFile as u32;
const FAILURE: u32 = Status::Failure as u32;
const BAD_MESSAGE: u32 = Status::BadMessage as u32;

#[test]
fn files_are_written_and_read_where_asked() {
    let mut client = Client::new();
    let handle = client.open("file", 0x1 | 0x2 | 0x8);
    let mut write = handle.clone();
    put_uint64(&mut write, 3);
    write.put_string("def");
    assert_eq!(client.status(fxp::WRITE, &write), OK);
    let mut read = handle.clone();
    put_uint64(&mut read, 1);
    read.put_uint32(u32::MAX);
    assert_eq!(
        client.ask(fxp::READ, &read),
        (fxp::DATA, b"\x00\x00\x00\x05\x00\x00def".to_vec())
    );
    let mut beyond = handle.clone();
    put_uint64(&mut beyond, 6);
    beyond.put_uint32(1);
    assert_eq!(client.status(fxp::READ, &beyond), EOF);
    assert_eq!(client.extended("fsync@openssh.com", &handle).1[..4], [0; 4]);
    assert_eq!(client.status(fxp::CLOSE, &handle), OK);
    assert_eq!(client.status(fxp::CLOSE, &handle), NO_SUCH_FILE);
    assert_eq!(client.status(fxp::READ, &read), FAILURE);
}

#[test]
fn attributes_are_set_by_path_and_by_handle() {
    let mut client = Client::new();
    let handle = client.open("file", 0x2 | 0x8);
    let mut attributes = Vec::new();
    attributes.put_uint32(0x1 | 0x4 | 0x8);
    put_uint64(&mut attributes, 7);
    attributes
        .put_uint32(0o100_604)
        .put_uint32(1_000_000)
        .put_uint32(2_000_000);
    let by_handle = [&handle[..], &attributes].concat();
    let by_path = [strings(&["file"]), attributes].concat();
    for (kind, fields) in [(fxp::FSETSTAT, by_handle), (fxp::SETSTAT, by_path)] {
        fs::write(client.path("file"), "").unwrap();
        assert_eq!(client.status(kind, &fields), OK);
        let (kind, stat) = client.ask(fxp::STAT, &strings(&["file"]));
        assert_eq!(kind, fxp::ATTRS);
        let stat = Attributes::read(&mut Reader::new(&stat)).unwrap();
        let found = (stat.size, stat.permissions, stat.times);
        assert_eq!(found, (Some(7), Some(0o604), Some((1_000_000, 2_000_000))));
    }
}

#[test]
fn a_link_is_told_from_what_it_points_to() {
    let mut client = Client::new();
    assert_eq!(
        client.status(fxp::SYMLINK, &strings(&["target", "link"])),
        OK
    );
    assert_eq!(
        fs::read_link(client.path("link")).unwrap(),
        Path::new("target")
    );
    assert_eq!(client.status(fxp::STAT, &strings(&["link"])), NO_SUCH_FILE);
    assert_eq!(client.ask(fxp::LSTAT, &strings(&["link"])).0, fxp::ATTRS);
    let mut name = Vec::new();
    name.put_uint32(1)
        .put_string("target")
        .put_string("target")
        .put_uint32(0);
    assert_eq!(
        client.ask(fxp::READLINK, &strings(&["link"])),
        (fxp::NAME, name)
    );
    let mut times = strings(&["link"]);
    times.put_uint32(0x8).put_uint32(5).put_uint32(6);
    assert_eq!(
        client.extended("lsetstat@openssh.com", &times).1[..4],
        [0; 4]
    );
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        fs::symlink_metadata(client.path("link")).unwrap().mtime(),
        6
    );
}

#[test]
fn renames_overwrite_only_by_the_extension() {
    let mut client = Client::new();
    for name in ["a", "b"] {
        fs::write(client.path(name), name).unwrap();
    }
    for name in ["c", "d"] {
        fs::create_dir(client.path(name)).unwrap();
    }
    assert_eq!(client.status(fxp::RENAME, &strings(&["a", "b"])), FAILURE);
    assert_eq!(client.status(fxp::RENAME, &strings(&["c", "d"])), FAILURE);
    assert_eq!(
        client.status(fxp::RENAME, &strings(&["none", "e"])),
        NO_SUCH_FILE
    );
    assert_eq!(client.status(fxp::RENAME, &strings(&["c", "e"])), OK);
    assert_eq!(
        client
            .extended("hardlink@openssh.com", &strings(&["a", "f"]))
            .1[..4],
        [0; 4]
    );
    assert_eq!(
        client
            .extended("posix-rename@openssh.com", &strings(&["a", "b"]))
            .1[..4],
        [0; 4]
    );
    assert_eq!(fs::read(client.path("b")).unwrap(), b"a");
    assert_eq!(client.status(fxp::REMOVE, &strings(&["f"])), OK);
    assert_eq!(client.status(fxp::RMDIR, &strings(&["e"])), OK);
}

#[test]
fn directories_come_in_batches() {
    let mut client = Client::new();
    let mut mkdir = strings(&["many"]);
    mkdir.put_uint32(0x4).put_uint32(0o750);
    assert_eq!(client.status(fxp::MKDIR, &mkdir), OK);
    for number in 0..250 {
        fs::write(client.path(&format!("many/{number}")), "").unwrap();
    }
    let (_, handle) = client.ask(fxp::OPENDIR, &strings(&["many"]));
    let mut counts = Vec::new();
    loop {
        let (kind, fields) = client.ask(fxp::READDIR, &handle);
        let count = Reader::new(&fields).u32().unwrap();
        if kind == fxp::STATUS {
            assert_eq!(count, EOF);
            break;
        }
        counts.push(count);
    }
    assert_eq!(counts, [102, 100, 50]);
    assert_eq!(client.ask(fxp::FSTAT, &handle).0, fxp::ATTRS);
    let mut read = handle;
    put_uint64(&mut read, 0);
    read.put_uint32(1);
    assert_eq!(client.status(fxp::READ, &read), FAILURE);
}

/// As truncate(2) has it: to open such a thing for writing would wait for a reader for ever.
#[test]
fn what_has_no_size_is_given_none() {
    let mut client = Client::new();
    rustix::fs::mkfifoat(CWD, client.path("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    let mut size = strings(&["fifo"]);
    size.put_uint32(0x1);
    put_uint64(&mut size, 5);
    assert_eq!(client.status(fxp::SETSTAT, &size), BAD_MESSAGE);
    let _reader = client.open("fifo", 0x1);
    assert_eq!(client.status(fxp::SETSTAT, &size), BAD_MESSAGE);
}

#[test]
fn homes_of_others_are_found() {
    let mut client = Client::new();
    let root = Account::named("root".as_ref()).unwrap();
    for (path, rest) in [("~root", ""), ("~root/", ""), ("~root//a/b", "a/b")] {
        let expanded = client.server.expand(Path::new(path)).ok();
        assert_eq!(expanded, Some(root.home.join(rest)), "{path}");
    }
    for path in ["~no-such-user", "~no-such-user/x"] {
        let (kind, fields) = client.extended("expand-path@openssh.com", &strings(&[path]));
        let mut fields = Reader::new(&fields);
        assert_eq!((kind, fields.u32().unwrap()), (fxp::STATUS, NO_SUCH_FILE));
        assert_eq!(fields.string().unwrap(), b"no such user");
    }
}

#[test]
fn paths_are_made_absolute() {
    let mut client = Client::new();
    let home = fs::canonicalize(client.home.path()).unwrap();
    let expected = |name: &str| {
        let path = if name.is_empty() {
            home.clone()
        } else {
            home.join(name)
        };
        let path = path.to_str().unwrap().to_owned();
        let mut fields = Vec::new();
        fields
            .put_uint32(1)
            .put_string(&path)
            .put_string(&path)
            .put_uint32(0);
        (fxp::NAME, fields)
    };
    assert_eq!(client.ask(fxp::REALPATH, &strings(&["."])), expected(""));
    assert_eq!(
        client.ask(fxp::REALPATH, &strings(&["new"])),
        expected("new")
    );
    assert_eq!(
        client.status(fxp::REALPATH, &strings(&["new/newer"])),
        NO_SUCH_FILE
    );
    assert_eq!(
        client.extended("expand-path@openssh.com", &strings(&["~"])),
        expected("")
    );
    assert_eq!(
        client.extended("expand-path@openssh.com", &strings(&["~/x"])),
        expected("x")
    );
}

#[test]
fn limits_are_those_of_the_server() {
    let mut client = Client::new();
    let (kind, fields) = client.extended("limits@openssh.com", b"");
    let mut fields = Reader::new(&fields);
    let limits = [(); 4].map(|()| read_uint64(&mut fields).unwrap());
    assert_eq!(
        (kind, limits),
        (fxp::EXTENDED_REPLY, [262_144, 261_120, 261_120, 1024])
    );
    let handle = client.open("same", 0x1 | 0x2 | 0x8);
    for (request, fields) in [
        ("statvfs@openssh.com", strings(&["."])),
        ("fstatvfs@openssh.com", handle.clone()),
    ] {
        let (kind, fields) = client.extended(request, &fields);
        assert_eq!((kind, fields.len()), (fxp::EXTENDED_REPLY, 88));
    }
    assert_eq!(client.status(fxp::CLOSE, &handle), OK);
    for _ in 0..MAX_HANDLES {
        client.open("same", 0x1 | 0x2 | 0x8);
    }
    let mut open = strings(&["same"]);
    open.put_uint32(1).put_uint32(0);
    assert_eq!(client.status(fxp::OPEN, &open), FAILURE);
}

#[test]
fn what_is_no_sftp_ends_it() {
    let mut client = Client::new();
    assert_eq!(
        client.send(fxp::INIT, &3_u32.to_be_bytes()),
        Err(Error::Unexpected(fxp::INIT))
    );
    assert_eq!(
        client.send(fxp::STAT, b"\x00"),
        Err(Error::Truncated(Truncated))
    );
    assert_eq!(client.status(99, b""), Status::Unsupported as u32);
    assert_eq!(client.extended("unheard-of", b"").1[..4], [0, 0, 0, 8]);
    let mut fresh = Server::new(Path::new("/"));
    assert_eq!(
        fresh.handle(&[fxp::STAT, 0, 0, 0, 1], &mut Vec::new()),
        Err(Error::Unexpected(fxp::STAT))
    );
}

#[test]
fn errors_of_the_system_as_sftp_server_puts_them() {
    for (errno, expected) in [
        (Errno::NOENT, Status::NoSuchFile),
        (Errno::ACCESS, Status::PermissionDenied),
        (Errno::INVAL, Status::BadMessage),
        (Errno::NOSYS, Status::Unsupported),
        (Errno::NOTEMPTY, Status::Failure),
    ] {
        assert_eq!(status(&errno.into()), expected);
    }
}

/// Fields that often make sense; no path leads out of the home directory.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let names = [
        "",
        ".",
        "a",
        "b",
        "a/b",
        "\u{e9}",
        "\0",
        "posix-rename@openssh.com",
        "lsetstat@openssh.com",
    ];
    prop_oneof![
        proptest::sample::select(names.to_vec()).prop_map(|name| strings(&[name])),
        (0_u32..4).prop_map(|handle| [&[0, 0, 0, 4], &handle.to_be_bytes()[..]].concat()),
        (0_u32..64).prop_map(|number| number.to_be_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..3),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, each packet has exactly one answer or ends the subsystem.
    #[test]
    fn any_packets_are_survived(
        packets in proptest::collection::vec((0_u8..=202, proptest::collection::vec(field(), 0..5)), 0..40)
    ) {
        let mut client = Client::new();
        for (kind, fields) in packets {
            // An id, so that the rest lines up.
            let fields = [&b"\x00\x00\x00\x01"[..], &fields.concat()].concat();
            let _ = client.send(kind % 24, &fields);
            let _ = client.send(kind, &fields);
        }
    }
}
