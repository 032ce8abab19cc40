// Addresses. Pods with processes have a network namespace of their own and a link to bridge cni0; echo pods listen on addresses that the test's
// namespace takes for its own (route local 10.244.0.0/17 dev lo).
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

type network struct {
	mu           sync.Mutex
	echo, linked uint32
}

func newNetwork(ctx context.Context) (*network, error) {
	n := &network{}
	for _, local := range []string{"10.244.0.0/17", "10.250.0.0/16", "10.96.0.0/16"} {
		if err := ip(ctx, nil, "route replace local "+local+" dev lo"); err != nil {
			return nil, err
		}
	}
	if ip(ctx, nil, "link show dev cni0") == nil {
		return n, nil // an agent before this one
	}
	// Left to itself, a bridge takes the lowest address of its links and changes it when that one goes: pods would talk to nobody until they ask anew.
	return n, ip(ctx, nil, "link set lo up", "link add cni0 address 0a:58:0a:f4:80:01 type bridge", "addr add 10.244.128.1/17 dev cni0", "link set cni0 up")
}

func (n *network) echoAddress() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.echo++
	return fmt.Sprintf("10.244.%d.%d", n.echo/250, n.echo%250+1)
}

// join makes a network namespace with an address on the bridge. It lives as long as the file is open or a process is in it.
func (n *network) join(ctx context.Context) (string, *os.File, error) {
	n.mu.Lock()
	n.linked++
	number := n.linked
	n.mu.Unlock()
	address := fmt.Sprintf("10.244.%d.%d", 128+(number+1)/250, (number+1)%250+1)
	netns, err := newNetns()
	if err != nil {
		return "", nil, err
	}
	path := netnsPath(netns)
	link := fmt.Sprintf("veth%d", number)
	if err = ip(ctx, nil, "link add "+link+" type veth peer name eth0 netns "+path, "link set "+link+" master cni0 up"); err == nil {
		err = ip(ctx, netns, "link set lo up", "addr add "+address+"/17 dev eth0", "link set eth0 up", "route add default via 10.244.128.1")
	}
	if err != nil {
		netns.Close()
		return "", nil, err
	}
	return address, netns, nil
}

func netnsPath(netns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), netns.Fd()) }

func newNetns() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		// The thread stays in the new namespace, hence ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{nil, err}
			return
		}
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		made <- result{file, err}
	}()
	r := <-made
	return r.file, r.err
}

func ip(ctx context.Context, netns *os.File, lines ...string) error {
	words := []string{"ip", "-batch", "-"}
	if netns != nil {
		words = append([]string{"nsenter", "--net=" + netnsPath(netns)}, words...)
	}
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err, output)
	}
	return nil
}
