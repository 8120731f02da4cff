// What a user of libssh2 sees: `with_libssh2 CASE PORT USER IDENTITY DIRECTORY`.

#include <arpa/inet.h>
#include <errno.h>
#include <libssh2.h>
#include <libssh2_sftp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int port;
static const char *user, *identity, *directory;

static LIBSSH2_SESSION *session;
static int fd;

static void fail(const char *what)
{
    char *text = "";
    if (session)
        libssh2_session_last_error(session, &text, NULL, 0);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

// Shows the library's last error, which must be one.
static void show_error(const char *label)
{
    char *text;
    int code = libssh2_session_last_error(session, &text, NULL, 0);
    if (!code)
        fail(label);
    printf("%s: error %d %s\n", label, code, text);
}

// FNV-1a, enough to tell streams apart.
static uint64_t hash(uint64_t state, const char *data, size_t size)
{
    while (size--)
        state = (state ^ (unsigned char)*data++) * 0x100000001b3;
    return state;
}
#define HASH_START 0xcbf29ce484222325

// Bytes that do not compress.
static char *noise(size_t size)
{
    char *data = malloc(size);
    uint64_t state = 88172645463325252;
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        data[i] = (char)state;
    }
    return data;
}

static void log_in(int kind, const char *preference)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    session = libssh2_session_init();
    libssh2_session_set_timeout(session, 30000);
    if (preference && libssh2_session_method_pref(session, kind, preference))
        fail(preference);
    if (libssh2_session_handshake(session, fd))
        fail("handshake");
    if (libssh2_userauth_publickey_fromfile(session, user, NULL, identity, NULL))
        fail("login");
}

static void log_out(void)
{
    libssh2_session_disconnect(session, "goodbye");
    libssh2_session_free(session);
    close(fd);
}

static LIBSSH2_CHANNEL *open_session(void)
{
    LIBSSH2_CHANNEL *channel = libssh2_channel_open_session(session);
    if (!channel)
        fail("session");
    return channel;
}

// Sends `input`, reads both streams to their ends at the same time, and shows them as they are or as hashes.
static void pump(LIBSSH2_CHANNEL *channel, const char *label, const char *input, size_t size)
{
    size_t sent = 0, got[2] = { 0 };
    uint64_t sums[2] = { HASH_START, HASH_START };
    char buffer[70000], text[2][200] = { "", "" };
    int eof_sent = 0;
    libssh2_session_set_blocking(session, 0);
    while (!libssh2_channel_eof(channel) || !eof_sent) {
        int moved = 0;
        ssize_t n;
        for (int stream = 0; stream < 2; stream++)
            while ((n = libssh2_channel_read_ex(channel, stream, buffer, sizeof buffer)) > 0) {
                size_t room = sizeof text[stream] - 1 - strlen(text[stream]);
                if (!got[stream])
                    strncat(text[stream], buffer, (size_t)n < room ? (size_t)n : room);
                sums[stream] = hash(sums[stream], buffer, n);
                got[stream] += n;
                moved = 1;
            }
        if (sent < size && (n = libssh2_channel_write(channel, input + sent, size - sent)) > 0)
            sent += n, moved = 1;
        if (sent == size && !eof_sent && libssh2_channel_send_eof(channel) == 0)
            eof_sent = moved = 1;
        if (!moved && !libssh2_channel_eof(channel)) {
            int way = libssh2_session_block_directions(session);
            struct pollfd wait = { .fd = fd, .events = POLLIN };
            if (way & LIBSSH2_SESSION_BLOCK_OUTBOUND)
                wait.events |= POLLOUT;
            if (poll(&wait, 1, 30000) <= 0)
                fail("nothing moves");
        } else if (!moved) {
            // The far side has ended; what is left of the input is for nobody.
            eof_sent = 1;
        }
    }
    libssh2_session_set_blocking(session, 1);
    for (int stream = 0; stream < 2; stream++)
        printf("%s: stream %d, %zu bytes, hash %016lx %s\n", label, stream, got[stream],
               (unsigned long)sums[stream], got[stream] < 200 ? text[stream] : "");
}

static void finish(LIBSSH2_CHANNEL *channel, const char *label)
{
    char *name = NULL, *text = NULL, *language = NULL;
    libssh2_channel_close(channel);
    libssh2_channel_wait_closed(channel);
    libssh2_channel_get_exit_signal(channel, &name, NULL, &text, NULL, &language, NULL);
    printf("%s: status %d signal %s %s %s\n", label, libssh2_channel_get_exit_status(channel),
           name ? name : "-", text ? text : "-", language ? language : "-");
    libssh2_channel_free(channel);
}

static void execute(const char *command, const char *input, size_t size)
{
    char label[30];
    snprintf(label, sizeof label, "%s", command);
    LIBSSH2_CHANNEL *channel = open_session();
    if (libssh2_channel_exec(channel, command))
        fail(command);
    pump(channel, label, input, size);
    finish(channel, label);
}

static void commands(void)
{
    const char *all[] = { "true", "exit 255", "no-such-command-anywhere", "echo out; echo err >&2; exit 3",
                          "kill -TERM $$", "kill -KILL $$", "wc -c; exit 4" };
    log_in(0, NULL);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        execute(all[i], "input", 5);
    LIBSSH2_CHANNEL *channel = open_session();
    printf("accepted: %d\n", libssh2_channel_setenv(channel, "LC_TEST", "a value"));
    libssh2_channel_setenv(channel, "REFUSED", "a value");
    show_error("refused");
    libssh2_channel_exec(channel, "echo $LC_TEST$REFUSED");
    pump(channel, "variables", "", 0);
    finish(channel, "variables");
    channel = open_session();
    libssh2_channel_subsystem(channel, "no-such-subsystem");
    show_error("subsystem");
    libssh2_channel_free(channel);
    channel = open_session();
    libssh2_channel_shell(channel);
    pump(channel, "shell", "echo from a shell; exit 5\n", 26);
    finish(channel, "shell");
}

static void bulk(void)
{
    size_t size = 2 << 20;
    char *data = noise(size);
    log_in(0, NULL);
    execute("tee /dev/stderr; exit 6", data, size);
    execute("head -c 5000000 /dev/zero", "", 0);
}

static void read_until(LIBSSH2_CHANNEL *channel, const char *end)
{
    char text[1000] = "";
    size_t size = 0;
    while (!strstr(text, end))
        if (size == sizeof text - 1 || libssh2_channel_read(channel, text + size++, 1) != 1)
            fail(end);
    printf("read: %s\n", text);
}

static void terminal(void)
{
    log_in(0, NULL);
    LIBSSH2_CHANNEL *channel = open_session();
    // No echo (53), erase (3) is Ctrl-H.
    const char modes[] = "\x35\0\0\0\0\x03\0\0\0\x08";
    if (libssh2_channel_request_pty_ex(channel, "vt220", 5, modes, sizeof modes, 99, 41, 990, 410))
        fail("pty");
    libssh2_channel_exec(channel, "echo $TERM; stty -a | grep -o 'erase = ..'; stty size; read line; stty size; exit 7");
    read_until(channel, "41 99\r\n");
    libssh2_channel_request_pty_size(channel, 77, 22);
    pump(channel, "rest", "word\n", 5);
    finish(channel, "rest");
}

// A child that sends back what it gets on one connection; returns its port.
static int echo(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 5))
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    if (!fork()) {
        char buffer[65536];
        alarm(60);
        int peer = accept(listener, NULL, NULL);
        for (ssize_t n; (n = read(peer, buffer, sizeof buffer)) > 0;)
            if (write(peer, buffer, n) != n)
                break;
        _exit(0);
    }
    close(listener);
    return ntohs(address.sin_port);
}

static void dialing(void)
{
    size_t size = 1 << 20;
    char *data = noise(size);
    int to = echo();
    log_in(0, NULL);
    LIBSSH2_CHANNEL *channel = libssh2_channel_direct_tcpip_ex(session, "localhost", to, "192.0.2.7", 4711);
    if (!channel)
        fail("direct-tcpip");
    pump(channel, "echo", data, size);
    libssh2_channel_free(channel);
    if (libssh2_channel_direct_tcpip(session, "127.0.0.1", 1))
        fail("port 1 is open");
    show_error("refused");
    if (libssh2_channel_direct_tcpip(session, "no-such-host.invalid", 80))
        fail("a host that cannot be");
    show_error("unknown");
    execute("echo still", "", 0);
}

// Channel types that the library does not know, by its general call.
static void unknown_type(void)
{
    log_in(0, NULL);
    if (libssh2_channel_open_ex(session, "nobody@example.com", 18, 65536, 32768, "", 0))
        fail("a type that nobody knows");
    show_error("type");
    execute("echo still", "", 0);
}

static void listening(void)
{
    int bound = 0;
    char buffer[100];
    log_in(0, NULL);
    LIBSSH2_LISTENER *listener = libssh2_channel_forward_listen_ex(session, "127.0.0.1", 0, &bound, 5);
    if (!listener)
        fail("tcpip-forward");
    if (libssh2_channel_forward_listen_ex(session, "127.0.0.1", bound, NULL, 5))
        fail("taken twice");
    show_error("taken");
    for (int i = 0; i < 3; i++) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(bound) };
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int peer = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer, (struct sockaddr *)&address, sizeof address) || write(peer, "hello", 5) != 5)
            fail("connect to the forward");
        shutdown(peer, SHUT_WR);
        LIBSSH2_CHANNEL *channel = libssh2_channel_forward_accept(listener);
        if (!channel)
            fail("accept");
        ssize_t n, size = 0;
        while ((n = libssh2_channel_read(channel, buffer + size, sizeof buffer - size)) > 0)
            size += n;
        libssh2_channel_write(channel, "answer", 6);
        libssh2_channel_send_eof(channel);
        printf("asked: %.*s\n", (int)size, buffer);
        size = 0;
        while ((n = read(peer, buffer + size, sizeof buffer - size)) > 0)
            size += n;
        printf("answered: %.*s\n", (int)size, buffer);
        libssh2_channel_free(channel);
        close(peer);
    }
    printf("cancelled: %d\n", libssh2_channel_forward_cancel(listener));
}

static void sftp_error(LIBSSH2_SFTP *sftp, const char *label, int result)
{
    if (!result)
        fail(label);
    printf("%s: %d %lu\n", label, result, libssh2_sftp_last_error(sftp));
}

static const char *in_directory(const char *name)
{
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s%s", directory, name);
    return path;
}

static void files(void)
{
    char name[500], *data = noise(3 << 20);
    LIBSSH2_SFTP_ATTRIBUTES attributes;
    log_in(0, NULL);
    LIBSSH2_SFTP *sftp = libssh2_sftp_init(session);
    if (!sftp || libssh2_sftp_mkdir(sftp, in_directory("sub"), 0750))
        fail("sftp");
    int flags = LIBSSH2_FXF_WRITE | LIBSSH2_FXF_CREAT | LIBSSH2_FXF_TRUNC;
    LIBSSH2_SFTP_HANDLE *file = libssh2_sftp_open(sftp, in_directory("sub/file"), flags, 0640);
    for (size_t sent = 0; sent < 3 << 20;) {
        ssize_t n = libssh2_sftp_write(file, data + sent, (3 << 20) - sent);
        if (n < 0)
            fail("write");
        sent += n;
    }
    libssh2_sftp_close(file);
    uint64_t sum = HASH_START;
    char buffer[100000];
    file = libssh2_sftp_open(sftp, in_directory("sub/file"), LIBSSH2_FXF_READ, 0);
    for (ssize_t n; (n = libssh2_sftp_read(file, buffer, sizeof buffer)) > 0;)
        sum = hash(sum, buffer, n);
    libssh2_sftp_close(file);
    printf("hash: %016lx\n", (unsigned long)sum);
    libssh2_sftp_stat(sftp, in_directory("sub/file"), &attributes);
    printf("stat: %lo %lu\n", attributes.permissions, (unsigned long)attributes.filesize);
    printf("rename: %d\n", libssh2_sftp_rename(sftp, in_directory("sub/file"), in_directory("sub/renamed")));
    LIBSSH2_SFTP_HANDLE *listing = libssh2_sftp_opendir(sftp, in_directory("sub"));
    while (libssh2_sftp_readdir(listing, name, sizeof name, &attributes) > 0)
        if (*name != '.')
            printf("entry: %s %lo\n", name, attributes.permissions);
    libssh2_sftp_closedir(listing);
    sftp_error(sftp, "missing", libssh2_sftp_stat(sftp, in_directory("none"), &attributes));
    sftp_error(sftp, "taken", libssh2_sftp_mkdir(sftp, in_directory("sub"), 0700));
    sftp_error(sftp, "not empty", libssh2_sftp_rmdir(sftp, in_directory("sub")));
    printf("unlink: %d\n", libssh2_sftp_unlink(sftp, in_directory("sub/renamed")));
    printf("rmdir: %d\n", libssh2_sftp_rmdir(sftp, in_directory("sub")));
    libssh2_sftp_shutdown(sftp);
}

// Its own scp, both ways.
static void copies(void)
{
    size_t size = 1500001;
    char *data = noise(size), buffer[65536];
    log_in(0, NULL);
    LIBSSH2_CHANNEL *channel = libssh2_scp_send(session, in_directory("sent"), 0604, size);
    if (!channel)
        fail("scp");
    for (size_t sent = 0; sent < size;) {
        ssize_t n = libssh2_channel_write(channel, data + sent, size - sent);
        if (n < 0)
            fail("write");
        sent += n;
    }
    libssh2_channel_send_eof(channel);
    libssh2_channel_wait_eof(channel);
    finish(channel, "sent");
    libssh2_struct_stat status;
    channel = libssh2_scp_recv2(session, in_directory("sent"), &status);
    if (!channel)
        fail("scp back");
    uint64_t sum = HASH_START;
    for (size_t left = status.st_size; left;) {
        ssize_t n = libssh2_channel_read(channel, buffer, left < sizeof buffer ? left : sizeof buffer);
        if (n <= 0)
            fail("read");
        sum = hash(sum, buffer, n);
        left -= n;
    }
    printf("received: mode %o, %ld bytes, %016lx, as sent: %d\n", status.st_mode, (long)status.st_size,
           (unsigned long)sum, sum == hash(HASH_START, data, size));
    libssh2_channel_free(channel);
    if (libssh2_scp_recv2(session, in_directory("none"), &status))
        fail("a file that is not there");
    show_error("missing");
}

static void keepalive(void)
{
    int next;
    log_in(0, NULL);
    libssh2_keepalive_config(session, 1, 1);
    for (int i = 0; i < 5; i++)
        if (libssh2_keepalive_send(session, &next))
            fail("keepalive");
    execute("sleep 1.2; echo still", "", 0);
}

static void algorithms(void)
{
    static const struct { int kind; const char *name; } all[] = {
        { LIBSSH2_METHOD_KEX, "curve25519-sha256" },
        { LIBSSH2_METHOD_KEX, "ecdh-sha2-nistp256" },
        { LIBSSH2_METHOD_KEX, "ecdh-sha2-nistp521" },
        { LIBSSH2_METHOD_CRYPT_CS, "aes128-ctr" },
        { LIBSSH2_METHOD_CRYPT_SC, "aes192-ctr" },
        { LIBSSH2_METHOD_MAC_CS, "hmac-sha2-256" },
        { LIBSSH2_METHOD_MAC_SC, "hmac-sha2-512" },
    };
    char *data = noise(100000);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        log_in(all[i].kind, all[i].name);
        printf("chosen: %s\n", libssh2_session_methods(session, all[i].kind));
        execute("cat", data, 100000);
        log_out();
    }
}

int main(int count, char **arguments)
{
    static const struct { const char *name; void (*run)(void); } cases[] = {
        { "commands", commands }, { "bulk", bulk },       { "terminal", terminal },
        { "dialing", dialing },   { "files", files },     { "unknown_type", unknown_type },
        { "copies", copies },     { "listening", listening }, { "keepalive", keepalive },
        { "algorithms", algorithms },
    };
    if (count != 6)
        return 2;
    port = atoi(arguments[2]), user = arguments[3], identity = arguments[4], directory = arguments[5];
    alarm(60);
    libssh2_init(0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(cases[i].name, arguments[1]))
            return cases[i].run(), 0;
    return 2;
}
