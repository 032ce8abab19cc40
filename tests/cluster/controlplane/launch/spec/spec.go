// Package spec is what the node agent tells launch about a container.
package spec

type Container struct {
	Hostname        string
	Image           string // the image's root file system, never written to
	Scratch         string // a folder of this container's own
	ReadOnly        bool
	Files           map[string]string // path in the container to content
	Mounts          []Mount
	WorkingDir      string
	Argv, Env       []string
	UID, GID        int
	Groups          []int
	Bounding        []int // capabilities by number
	Ambient         []int
	NoNewPrivileges bool
}

type Mount struct {
	Source, Target string
	ReadOnly       bool
}
