// Command controlplane is the Kubernetes cluster that the tests of this folder run against, in one network namespace:
//
//	controlplane server -dir DIR    etcd, kube-apiserver, kube-controller-manager and kube-scheduler, all real, in one process
//	controlplane nodes  -dir DIR    the node agent: nodes, pods, Services of type LoadBalancer and ClusterIP (see agent.go)
//	controlplane faults -dir DIR    a proxy before the API server that cuts, stalls, truncates and answers wrongly on request
//
// They are apart so that a test can kill the server and see the pods go on. DIR is shared: keys, kubeconfigs, etcd's data, the pods' logs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Domain of the cluster, as service account tokens and the API server's certificate name it.
const dnsDomain = "cluster.local"

var begun = time.Now()

func main() {
	parts := map[string]func(context.Context, []string) error{"server": serverMain, "nodes": nodesMain, "faults": faultsMain}
	if len(os.Args) < 2 || parts[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: controlplane server|nodes|faults -dir DIR [flags]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := parts[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "controlplane %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// say writes to stderr itself: once kube-apiserver runs, the log package belongs to klog.
func say(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "%8s %s\n", time.Since(begun).Round(time.Millisecond), fmt.Sprintf(format, arguments...))
}
