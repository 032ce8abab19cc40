// A container's process: started by launch in namespaces of its own, its output in a file, killed with this agent.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"controlplane/launch/spec"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

type process struct {
	command  *exec.Cmd
	pid      int
	done     chan struct{}
	uid, gid int
	env      []string
}

// image.json beside an image's rootfs.
type imageConfig struct {
	Entrypoint, Cmd, Env []string
	WorkingDir           string
	User                 string // UID or UID:GID
	// The programs have file capabilities: added capabilities are not made ambient then, as no kubelet makes them.
	FileCapabilities bool
}

func (a *agent) imageFolder(reference string) string {
	return filepath.Join(a.images, filepath.Clean("/"+imageName(reference)))
}

func (a *agent) hasImage(reference string) bool {
	if a.images == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(a.imageFolder(reference), "rootfs"))
	return err == nil
}

func (c *container) startProcess() (*process, error) {
	p := c.pod
	if !p.agent.hasImage(c.spec.Image) {
		return nil, fmt.Errorf("no image %s", imageName(c.spec.Image))
	}
	description, err := c.describe()
	if err != nil {
		return nil, err
	}
	scratch := description.Scratch
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	text, err := json.Marshal(description)
	if err != nil {
		return nil, err
	}
	file := scratch + ".json"
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	log, err := p.agent.openLog(p.first, c.spec.Name, c.restarts)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// launch holds the other end until it executes the program; what it writes is why it could not.
	reading, writing, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reading.Close()
	command := exec.Command(p.agent.launch, file)
	command.Stdout, command.Stderr, command.Env, command.Dir = log, log, []string{}, "/"
	command.ExtraFiles = []*os.File{writing}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	run := &process{command: command, done: make(chan struct{}), uid: description.UID, gid: description.GID, env: description.Env}
	started := make(chan error, 1)
	go func() {
		// The thread is in the pod's network, and Pdeathsig waits for its end: it is never given back.
		runtime.LockOSThread()
		if p.netns != nil {
			if err := unix.Setns(int(p.netns.Fd()), unix.CLONE_NEWNET); err != nil {
				started <- fmt.Errorf("network namespace: %w", err)
				return
			}
		}
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait()
			close(run.done)
		}
	}()
	err = <-started
	writing.Close()
	if err != nil {
		return nil, err
	}
	if why, _ := io.ReadAll(reading); len(why) > 0 {
		<-run.done
		return nil, errors.New(string(why))
	}
	run.pid = command.Process.Pid
	return run, nil
}

// describe gathers what launch needs.
func (c *container) describe() (*spec.Container, error) {
	p, folder := c.pod, c.pod.agent.imageFolder(c.spec.Image)
	image := &imageConfig{}
	if text, err := os.ReadFile(filepath.Join(folder, "image.json")); err == nil {
		if err := json.Unmarshal(text, image); err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
	}
	env, expand, err := c.environment(image.Env)
	if err != nil {
		return nil, err
	}
	d := &spec.Container{Hostname: p.first.Name, Image: filepath.Join(folder, "rootfs"), Scratch: filepath.Join(p.folder(), "containers", c.spec.Name),
		WorkingDir: firstOf(c.spec.WorkingDir, image.WorkingDir, "/"), Env: env}
	d.Files = map[string]string{"/etc/hostname": p.first.Name + "\n",
		"/etc/hosts":       fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", p.ip, p.first.Name),
		"/etc/resolv.conf": "# this cluster has no DNS server\n"}
	// command replaces the entrypoint, and the image's arguments with it.
	entrypoint, arguments := image.Entrypoint, image.Cmd
	if len(c.spec.Command) > 0 {
		entrypoint, arguments = c.spec.Command, nil
	}
	if len(c.spec.Args) > 0 {
		arguments = c.spec.Args
	}
	for _, word := range slices.Concat(entrypoint, arguments) {
		d.Argv = append(d.Argv, expand(word))
	}
	if len(d.Argv) == 0 {
		return nil, fmt.Errorf("image %s has no entrypoint, and no command is given", c.spec.Image)
	}
	for _, m := range c.spec.VolumeMounts {
		index := slices.IndexFunc(p.volumes, func(v *volume) bool { return v.spec.Name == m.Name })
		if index < 0 {
			continue
		}
		d.Mounts = append(d.Mounts, spec.Mount{Source: filepath.Join(p.volumes[index].folder, m.SubPath), Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	// A mount inside another one comes after it.
	slices.SortStableFunc(d.Mounts, func(a, b spec.Mount) int { return len(a.Target) - len(b.Target) })
	return d, c.rights(d, image)
}

func firstOf(values ...string) string {
	for _, value := range values {
		if value != "" {
			return value
		}
	}
	return ""
}

// What a container runtime leaves to root, by name without CAP_.
var defaultCapabilities = []string{"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT",
	"KILL", "AUDIT_WRITE"}

var capabilityNumbers = map[string]int{"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "FSETID": unix.CAP_FSETID, "FOWNER": unix.CAP_FOWNER, "MKNOD": unix.CAP_MKNOD,
	"NET_RAW": unix.CAP_NET_RAW, "SETGID": unix.CAP_SETGID, "SETUID": unix.CAP_SETUID, "SETFCAP": unix.CAP_SETFCAP, "SETPCAP": unix.CAP_SETPCAP,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "SYS_CHROOT": unix.CAP_SYS_CHROOT, "KILL": unix.CAP_KILL, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE,
	"NET_ADMIN": unix.CAP_NET_ADMIN, "SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_PTRACE": unix.CAP_SYS_PTRACE}

// rights takes user, groups and capabilities from the image and both security contexts.
func (c *container) rights(d *spec.Container, image *imageConfig) error {
	if user, group, _ := strings.Cut(image.User, ":"); user != "" {
		var err error
		if d.UID, err = strconv.Atoi(user); err != nil {
			return fmt.Errorf("user %q of the image is not a number", image.User)
		}
		d.GID, _ = strconv.Atoi(group)
	}
	pod, own := c.pod.first.Spec.SecurityContext, c.spec.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	for _, user := range []*int64{pod.RunAsUser, own.RunAsUser} {
		if user != nil {
			d.UID = int(*user)
		}
	}
	for _, group := range []*int64{pod.RunAsGroup, own.RunAsGroup} {
		if group != nil {
			d.GID = int(*group)
		}
	}
	for _, must := range []*bool{pod.RunAsNonRoot, own.RunAsNonRoot} {
		if must != nil && *must && d.UID == 0 {
			return fmt.Errorf("container has runAsNonRoot and image will run as root")
		}
	}
	for _, group := range pod.SupplementalGroups {
		d.Groups = append(d.Groups, int(group))
	}
	if pod.FSGroup != nil {
		d.Groups = append(d.Groups, int(*pod.FSGroup))
	}
	d.ReadOnly = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
	d.NoNewPrivileges = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
	kept := slices.Clone(defaultCapabilities)
	if own.Capabilities != nil {
		for _, drop := range own.Capabilities.Drop {
			kept = slices.DeleteFunc(kept, func(name string) bool { return drop == "ALL" || name == string(drop) })
		}
		for _, add := range own.Capabilities.Add {
			number, known := capabilityNumbers[string(add)]
			if !known {
				return fmt.Errorf("capability %s is not known here", add)
			}
			kept = append(kept, string(add))
			if d.UID != 0 && !image.FileCapabilities {
				d.Ambient = append(d.Ambient, number)
			}
		}
	}
	for _, name := range kept {
		d.Bounding = append(d.Bounding, capabilityNumbers[name])
	}
	return nil
}

func (r *process) terminate() { _ = syscall.Kill(r.pid, syscall.SIGTERM) }
func (r *process) kill()      { _ = syscall.Kill(r.pid, syscall.SIGKILL) }

// exitCode of an ended process; a signal counts as 128 more than its number.
func (r *process) exitCode() int32 {
	status := r.command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return int32(128 + status.Signal())
	}
	return int32(status.ExitStatus())
}

// exec runs a command in the container, as its user.
func (r *process) exec(timeout time.Duration, words []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	command := exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(r.pid), "--mount", "--net", "--pid", "--ipc", "--uts", "--root", "--wd",
		"--setgid", fmt.Sprint(r.gid), "--setuid", fmt.Sprint(r.uid), "--"}, words...)...)
	command.Env = r.env
	output, err := command.CombinedOutput()
	return strings.TrimSpace(string(output)), err
}
