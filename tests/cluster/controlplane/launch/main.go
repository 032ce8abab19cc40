// Command launch turns itself into a container's program: `launch SPEC.json`, started by the node agent as process 1 of new pid, mount, ipc and uts
// namespaces, in the pod's network namespace. It makes the root file system, mounts, gives up rights, and executes. What fails is written to
// descriptor 3, which the program does not get.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"controlplane/launch/spec"

	"golang.org/x/sys/unix"
)

func main() {
	// Capabilities and the no_new_privs bit belong to a thread: all that follows must happen on the one that executes.
	runtime.LockOSThread()
	unix.CloseOnExec(3)
	fmt.Fprintf(os.NewFile(3, "agent"), "launch: %v", run(os.Args[1]))
	os.Exit(125)
}

func run(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c spec.Container
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := makeRoot(&c); err != nil {
		return err
	}
	if err := unix.Chdir(c.WorkingDir); err != nil {
		return fmt.Errorf("working directory %s: %w", c.WorkingDir, err)
	}
	program := c.Argv[0]
	if !strings.Contains(program, "/") {
		for _, variable := range c.Env {
			if value, ok := strings.CutPrefix(variable, "PATH="); ok {
				os.Setenv("PATH", value)
			}
		}
		if program, err = exec.LookPath(program); err != nil {
			return err
		}
	}
	unix.Umask(0o022)
	if err := dropRights(&c); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", program, unix.Exec(program, c.Argv, c.Env))
}

// makeRoot puts the image under a fresh layer in memory, the volumes on top, and makes that the root.
func makeRoot(c *spec.Container) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	layer, root := filepath.Join(c.Scratch, "layer"), filepath.Join(c.Scratch, "root")
	for _, dir := range []string{layer, root} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// In memory, because an overlay's upper layer may not lie on an overlay, as the root of a test machine may be one.
	if err := unix.Mount("tmpfs", layer, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	for _, dir := range []string{layer + "/upper", layer + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", c.Image, layer, layer)); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	for name, content := range c.Files {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		return err
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	if err := makeDevices(filepath.Join(root, "dev")); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if err := mount(root, m); err != nil {
			return fmt.Errorf("mount of %s: %w", m.Target, err)
		}
	}
	if c.ReadOnly {
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			// The overlay itself is no bind mount everywhere: then the whole of it turns read-only.
			if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return fmt.Errorf("read-only root: %w", err)
			}
		}
	}
	// The old root is stacked over the new one and taken away at once: no folder is needed for it.
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

func makeDevices(dev string) error {
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := mount(dev, spec.Mount{Source: "/dev/" + name, Target: name}); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	if err := os.Mkdir(filepath.Join(dev, "shm"), 0o1777); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dev, "shm"), 0o1777)
}

func mount(root string, m spec.Mount) error {
	about, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	target := filepath.Join(root, m.Target)
	if about.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var file *os.File
		if file, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			file.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if m.ReadOnly {
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// dropRights leaves the container's bounding set, user and groups, and of a user that is not root only what is ambient.
func dropRights(c *spec.Container) error {
	var keep uint64
	for _, capability := range c.Bounding {
		keep |= 1 << capability
	}
	for capability := 0; capability <= unix.CAP_LAST_CAP; capability++ {
		if keep&(1<<capability) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0); err != nil && err != unix.EINVAL {
				return fmt.Errorf("bounding set: %w", err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	groups := make([]uint32, len(c.Groups)+1)
	for i, group := range c.Groups {
		groups[i] = uint32(group)
	}
	if _, _, code := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(unsafe.Pointer(&groups[0])), 0); code != 0 {
		return fmt.Errorf("groups: %w", code)
	}
	if _, _, code := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(c.GID), uintptr(c.GID), uintptr(c.GID)); code != 0 {
		return fmt.Errorf("group: %w", code)
	}
	if _, _, code := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(c.UID), uintptr(c.UID), uintptr(c.UID)); code != 0 {
		return fmt.Errorf("user: %w", code)
	}
	var ambient uint64
	for _, capability := range c.Ambient {
		ambient |= 1 << capability
	}
	// Permitted keeps the bounding set: file capabilities may then be had again under no_new_privs, as with runc.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep), Inheritable: uint32(ambient)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32), Inheritable: uint32(ambient >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for _, capability := range c.Ambient {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(capability), 0, 0); err != nil {
			return fmt.Errorf("ambient capability %d: %w", capability, err)
		}
	}
	if c.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	// The change of user has cleared it: nothing may outlive the node agent.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}
