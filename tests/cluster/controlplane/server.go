// The server process: starts etcd and the three control plane components, says when they are ready, and takes two orders on a socket in DIR.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	logsapi "k8s.io/component-base/logs/api/v1"
)

type serverOptions struct {
	dir, bind, advertise, serviceCIDR, apiArgs string
	port, verbosity                            int
}

func serverMain(ctx context.Context, arguments []string) error {
	o := &serverOptions{}
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	flags.StringVar(&o.dir, "dir", "", "state directory")
	flags.StringVar(&o.bind, "bind", "127.0.0.1", "address of the API server")
	flags.IntVar(&o.port, "port", 6443, "its port")
	flags.StringVar(&o.advertise, "advertise", "192.0.2.1", "must not be loopback; nothing connects to it")
	flags.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/16", "addresses of Services")
	flags.StringVar(&o.apiArgs, "apiserver-args", "", "more flags of kube-apiserver, separated by spaces")
	flags.IntVar(&o.verbosity, "v", 0, "klog verbosity")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// All components share this process's logging configuration.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	ready := filepath.Join(o.dir, "ready")
	_ = os.Remove(ready)
	keys, err := openPKI(o)
	if err != nil {
		return err
	}
	etcd, err := startEtcd(ctx, filepath.Join(o.dir, "etcd"))
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer etcd.Close()
	if err := serveOrders(filepath.Join(o.dir, "orders"), etcd); err != nil {
		return err
	}
	say("etcd is ready")

	failed := make(chan error, 4)
	start := func(name string, run func() error) chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := run(); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
		return done
	}
	apiDone := start("kube-apiserver", func() error { return runAPIServer(ctx, o, keys, etcd.clientURL()) })
	config, err := clientcmd.BuildConfigFromFlags("", keys.kubeconfig("admin"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := poll(ctx, failed, "kube-apiserver ready", func() bool {
		answer, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil && string(answer) == "ok"
	}); err != nil {
		return err
	}
	say("kube-apiserver is ready")
	start("kube-controller-manager", func() error { return runControllerManager(ctx, o, keys) })
	start("kube-scheduler", func() error { return runScheduler(ctx, o, keys) })
	// Pods can be created only once the default ServiceAccount exists.
	if err := poll(ctx, failed, "default ServiceAccount", func() bool {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	}); err != nil {
		return err
	}
	say("ready")
	if err := os.WriteFile(ready, []byte(time.Since(begun).String()+"\n"), 0o644); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		select {
		case <-apiDone:
		case <-time.After(20 * time.Second):
		}
		return nil
	}
}

// serveOrders takes POST /compact: etcd forgets all revisions but the last one. The answer is that revision.
func serveOrders(path string, etcd *etcdServer) error {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /compact", func(w http.ResponseWriter, r *http.Request) {
		revision, err := etcd.compact(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, revision)
	})
	go func() { _ = http.Serve(listener, mux) }()
	return nil
}

// poll returns nil when the condition holds, or what a component failed with.
func poll(ctx context.Context, failed chan error, what string, condition func() bool) error {
	deadline := time.After(90 * time.Second)
	for {
		if condition() {
			return nil
		}
		select {
		case err := <-failed:
			return err
		case <-deadline:
			return fmt.Errorf("no %s after 90 s", what)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
