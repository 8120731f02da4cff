// What a user of golang.org/x/crypto/ssh sees: `with_golang CASE PORT USER IDENTITY DIRECTORY`.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

var port, user, identity, directory = os.Args[2], os.Args[3], os.Args[4], os.Args[5]

var cases = map[string]func(){
	"commands": commands, "signals": signals, "bulk": bulk, "half_close": halfClose,
	"environment": environment, "terminal": terminal, "dialing": dialing, "listening": listening,
	"refusals": refusals, "global_requests": globalRequests, "raw_channels": rawChannels,
	"agents": agents, "rekey": rekey, "algorithms": algorithms, "many_sessions": manySessions,
}

func main() {
	time.AfterFunc(time.Minute, func() { panic("too late") })
	cases[os.Args[1]]()
}

// must ends the program: it did not get as far as it meant to.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func show(label string, values ...any) {
	for i, value := range values {
		if data, ok := value.([]byte); ok {
			values[i] = fmt.Sprintf("%q", data)
			if len(data) > 2000 {
				values[i] = fmt.Sprintf("%d bytes, sha256 %x", len(data), sha256.Sum256(data))
			}
		}
	}
	fmt.Println(label+":", fmt.Sprintln(values...))
}

func noise(size int, seed int64) []byte {
	data := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(data)
	return data
}

func connect(configure func(*ssh.ClientConfig)) *ssh.Client {
	text, err := os.ReadFile(identity)
	must(err)
	signer, err := ssh.ParsePrivateKey(text)
	must(err)
	config := &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Timeout:         30 * time.Second,
	}
	if configure != nil {
		configure(config)
	}
	client, err := ssh.Dial("tcp", "127.0.0.1:"+port, config)
	must(err)
	return client
}

func session(client *ssh.Client) *ssh.Session {
	session, err := client.NewSession()
	must(err)
	return session
}

// execute shows what a command gives; ExitError has all of exit-status and exit-signal.
func execute(client *ssh.Client, label, command string, stdin io.Reader) {
	session := session(client)
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	err := session.Run(command)
	show(label, stdout.Bytes(), stderr.Bytes(), outcome(err))
}

func outcome(err error) string {
	if exit, ok := err.(*ssh.ExitError); ok {
		return fmt.Sprintf("status %d signal %q text %q language %q", exit.ExitStatus(), exit.Signal(), exit.Msg(), exit.Lang())
	}
	return fmt.Sprintf("%T %v", err, err)
}

func commands() {
	client := connect(nil)
	for _, command := range []string{
		"true", "exit 255", "no-such-command-anywhere", "echo out; echo err >&2; exit 3",
		"printf '\\000\\377'; printf '\\377\\000' >&2", "printf %s '\xff\xfe'", "",
		"kill -HUP $$", "kill -KILL $$", "ulimit -c 0; kill -SEGV $$", "#" + strings.Repeat("x", 100_000),
	} {
		execute(client, fmt.Sprintf("%.60q", command), command, nil)
	}
}

// signals are asked for without a reply; sshd has its own rules for which it delivers.
func signals() {
	client := connect(nil)
	for _, signal := range []ssh.Signal{ssh.SIGINT, ssh.SIGTERM, ssh.SIGUSR1, "NOSUCH"} {
		session := session(client)
		stdin, err := session.StdinPipe()
		must(err)
		stdout, err := session.StdoutPipe()
		must(err)
		must(session.Start("trap 'echo got it' INT TERM USR1; echo ready; cat; exit 9"))
		_, err = io.ReadFull(stdout, make([]byte, 6))
		must(err)
		must(session.Signal(signal))
		stdin.Close()
		rest, _ := io.ReadAll(stdout)
		show(string(signal), rest, outcome(session.Wait()))
	}
}

func bulk() {
	client := connect(nil)
	data := noise(3<<20, 1)
	execute(client, "both", "tee /dev/stderr; exit 5", bytes.NewReader(data))
	execute(client, "down", "head -c 7000000 /dev/zero", nil)
	execute(client, "deaf", "exit 2", bytes.NewReader(data[:100_000]))
}

func halfClose() {
	client := connect(nil)
	execute(client, "count", "wc -c; echo then; exit 4", strings.NewReader("12345"))
	session := session(client)
	stdin, err := session.StdinPipe()
	must(err)
	stdout, err := session.StdoutPipe()
	must(err)
	must(session.Start("exec >&- 2>&-; cat > " + directory + "late; exit 3"))
	rest, err := io.ReadAll(stdout)
	show("output has ended", rest, err)
	_, err = stdin.Write([]byte("late words"))
	must(err)
	stdin.Close()
	show("status", outcome(session.Wait()))
	late, err := os.ReadFile(directory + "late")
	must(err)
	show("late", late)
}

func environment() {
	session := session(connect(nil))
	show("accepted", session.Setenv("LC_TEST", "a b=\xff"))
	show("refused", session.Setenv("REFUSED", "value"))
	output, err := session.Output("printf '%s' \"$LC_TEST$REFUSED\"")
	show("variables", output, outcome(err))
}

func terminal() {
	session := session(connect(nil))
	modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.VERASE: 8, ssh.TTY_OP_ISPEED: 9600, ssh.TTY_OP_OSPEED: 9600}
	must(session.RequestPty("vt220", 41, 99, modes))
	stdin, err := session.StdinPipe()
	must(err)
	stdout, err := session.StdoutPipe()
	must(err)
	must(session.Start("echo $TERM; stty size; stty -a | grep -oE 'speed [0-9]*|erase = ..|-?echo '; read line; stty size; exit 6"))
	begins := make([]byte, len("vt220\r\n41 99\r\n"))
	_, err = io.ReadFull(stdout, begins)
	must(err)
	show("begins", begins)
	must(session.WindowChange(22, 77))
	fmt.Fprintln(stdin, "word")
	rest, _ := io.ReadAll(stdout)
	show("rest", rest, outcome(session.Wait()))
}

// echo serves whoever connects and returns its address.
func echo(network, address string) string {
	listener, err := net.Listen(network, address)
	must(err)
	go serve(listener)
	return listener.Addr().String()
}

func serve(listener net.Listener) {
	for {
		peer, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			io.Copy(peer, peer)
			peer.Close()
		}()
	}
}

type halfCloser interface{ CloseWrite() error }

func exchange(conn net.Conn, data []byte) []byte {
	go func() {
		conn.Write(data)
		conn.(halfCloser).CloseWrite()
	}()
	answer, err := io.ReadAll(conn)
	must(err)
	return answer
}

// dialing is direct-tcpip and direct-streamlocal.
func dialing() {
	client := connect(nil)
	unix := echo("unix", directory+"echo")
	for _, to := range [][2]string{{"tcp", echo("tcp", "127.0.0.1:0")}, {"unix", unix}} {
		conn, err := client.Dial(to[0], to[1])
		must(err)
		show(to[0], exchange(conn, noise(1<<20, 2)), conn.LocalAddr().Network())
	}
	var group sync.WaitGroup
	for seed := int64(0); seed < 30; seed++ {
		group.Add(1)
		go func(seed int64) {
			defer group.Done()
			conn, err := client.Dial("unix", unix)
			must(err)
			if data := noise(20_000, seed); !bytes.Equal(exchange(conn, data), data) {
				panic("another's bytes")
			}
		}(seed)
	}
	group.Wait()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	closed.Close()
	_, err = client.Dial("tcp", closed.Addr().String())
	show("refused", outcome(err))
	_, err = client.Dial("tcp", "no-such-host.invalid:80")
	show("unknown", outcome(err))
	execute(client, "still", "echo works", nil)
}

// listening is tcpip-forward and streamlocal-forward, and their ends.
func listening() {
	client := connect(nil)
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", directory + "listening"}} {
		listener, err := client.Listen(at[0], at[1])
		must(err)
		go serve(listener)
		address := listener.Addr().String()
		for range [3]int{} {
			conn, err := net.Dial(at[0], address)
			must(err)
			show(at[0], exchange(conn, noise(300_000, 3)))
		}
		_, err = client.Listen(at[0], address)
		show("taken", err)
		show("closed", listener.Close())
		if at[0] == "tcp" {
			_, err = net.Dial(at[0], address)
			show("nobody", err != nil)
		}
	}
}

func refusals() {
	client := connect(nil)
	for _, kind := range []string{"nobody@example.com", "x11", "auth-agent@openssh.com", "direct-tcpip"} {
		_, _, err := client.OpenChannel(kind, nil)
		show(kind, outcome(err))
		if kind == "x11" {
			execute(client, "still", "echo works", nil)
		}
	}
	show("connection", client.Wait() != nil)
	client = connect(nil)
	show("subsystem", session(client).RequestSubsystem("no-such-subsystem"))
	one := session(client)
	_, err := one.StdinPipe()
	must(err)
	must(one.Start("cat"))
	_, err = one.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"true"}))
	show("second command", err)
	for _, name := range []string{"nobody@example.com", "env", "keepalive@openssh.com"} {
		ok, err := one.SendRequest(name, true, ssh.Marshal(struct{ Name, Value string }{"LC_LATE", "value"}))
		show(name, ok, err)
	}
}

func globalRequests() {
	client := connect(nil)
	for _, name := range []string{"keepalive@openssh.com", "nobody@example.com", "cancel-streamlocal-forward@openssh.com"} {
		ok, reply, err := client.SendRequest(name, true, ssh.Marshal(struct{ Path string }{directory + "none"}))
		show(name, ok, reply, err)
	}
	_, _, err := client.SendRequest("no-more-sessions@openssh.com", false, nil)
	must(err)
	execute0, err := client.NewSession()
	show("after no more sessions", execute0 == nil, err != nil)
}

// rawChannels does by hand what sessions hide: the requests' order, extended data, the end.
func rawChannels() {
	client := connect(nil)
	channel, requests, err := client.OpenChannel("session", nil)
	must(err)
	seen := make(chan string, 10)
	go func() {
		for request := range requests {
			seen <- fmt.Sprintf("%s %v %q", request.Type, request.WantReply, request.Payload)
		}
		close(seen)
	}()
	ok, err := channel.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"cat; cat >&2; exit 7"}))
	show("exec", ok, err)
	channel.Write([]byte("to stdout"))
	channel.CloseWrite()
	stdout, err := io.ReadAll(channel)
	show("stdout", stdout, err)
	stderr, err := io.ReadAll(channel.Stderr())
	show("stderr", stderr, err)
	for request := range seen {
		// Whether sshd tells of its closed input depends on who is faster.
		if !strings.HasPrefix(request, "eow@") {
			show("request", request)
		}
	}
	_, err = channel.Write([]byte("late"))
	show("after the end", err)
	show("close", channel.Close())
}

// agents serves an agent of its own to the far side.
func agents() {
	client := connect(nil)
	keys := agent.NewKeyring()
	must(keys.Add(agent.AddedKey{PrivateKey: ed25519.NewKeyFromSeed(noise(32, 4)), Comment: "a key of the keyring"}))
	must(agent.ForwardToAgent(client, keys))
	for range [3]int{} {
		session := session(client)
		// sshd grants it once for each connection.
		show("asked", agent.RequestAgentForwarding(session))
		output, err := session.Output("ssh-add -L; test -S \"$SSH_AUTH_SOCK\"; echo $?")
		show("keys", output, outcome(err))
	}
	execute(client, "not asked for", "echo ${SSH_AUTH_SOCK:+set}", nil)
}

// rekey changes keys for each 256 KiB while bytes flow both ways on two channels.
func rekey() {
	client := connect(func(config *ssh.ClientConfig) { config.RekeyThreshold = 1 << 18 })
	var group sync.WaitGroup
	for range [2]int{} {
		group.Add(1)
		go func() {
			defer group.Done()
			execute(client, "echo", "cat; exit 3", bytes.NewReader(noise(4<<20, 5)))
		}()
	}
	group.Wait()
}

func algorithms() {
	try := func(label string, configure func(*ssh.ClientConfig)) {
		client := connect(configure)
		execute(client, label, "cat", bytes.NewReader(noise(50_000, 6)))
		client.Close()
	}
	for _, name := range []string{
		"curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
	} {
		try(name, func(config *ssh.ClientConfig) { config.KeyExchanges = []string{name} })
	}
	for _, name := range []string{
		"aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr",
	} {
		try(name, func(config *ssh.ClientConfig) { config.Ciphers = []string{name} })
	}
	for _, name := range []string{"hmac-sha2-256-etm@openssh.com", "hmac-sha2-256"} {
		try(name, func(config *ssh.ClientConfig) { config.Ciphers, config.MACs = []string{"aes128-ctr"}, []string{name} })
	}
}

func manySessions() {
	client := connect(nil)
	outcomes := make([]string, 50)
	var group sync.WaitGroup
	for i := range outcomes {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			session := session(client)
			session.Stdin = bytes.NewReader(noise(10_000, int64(i)))
			output, err := session.Output(fmt.Sprintf("cat; exit %d", i))
			outcomes[i] = fmt.Sprintf("%x %s", sha256.Sum256(output), outcome(err))
		}(i)
	}
	group.Wait()
	show("all", strings.Join(outcomes, "\n"))
}
