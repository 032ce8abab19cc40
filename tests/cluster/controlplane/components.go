// The three control plane components. Each does what its command's RunE does, without the command's signal handler, which may be set up only once a process.
package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/rest"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	manageroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// Only what the tests' objects need: nothing here watches nodes, so nothing evicts.
var controllers = []string{
	"deployment", "replicaset", "statefulset", "daemonset", "job", "endpointslice", "endpoint", "endpointslicemirroring", "namespace", "garbagecollector",
	"serviceaccount", "serviceaccount-token", "root-ca-cert-publisher", "podgc", "disruption", "clusterrole-aggregation", "horizontalpodautoscaling",
}

func runAPIServer(ctx context.Context, o *serverOptions, keys *pki, etcdURL string) error {
	s := apiserveroptions.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range s.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	arguments := []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=" + o.bind,
		fmt.Sprintf("--secure-port=%d", o.port),
		"--advertise-address=" + o.advertise,
		"--endpoint-reconciler-type=none", // the kubernetes Service has no endpoints: services.go leads it here
		"--tls-cert-file=" + keys.file("apiserver.crt"),
		"--tls-private-key-file=" + keys.file("apiserver.key"),
		"--client-ca-file=" + keys.file("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc." + dnsDomain,
		"--service-account-key-file=" + keys.file("sa.key"),
		"--service-account-signing-key-file=" + keys.file("sa.key"),
		"--service-cluster-ip-range=" + o.serviceCIDR,
		"--allow-privileged=true",
		"--kubelet-client-certificate=" + keys.file("admin.crt"), // kubectl logs
		"--kubelet-client-key=" + keys.file("admin.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--enable-priority-and-fairness=false",
		"--storage-media-type=application/vnd.kubernetes.protobuf",
		"--profiling=false",
		fmt.Sprintf("--v=%d", o.verbosity),
	}
	if err := flags.Parse(append(arguments, strings.Fields(o.apiArgs)...)); err != nil {
		return err
	}
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	if err := logsapi.ValidateAndApply(s.Logs, utilfeature.DefaultFeatureGate); err != nil {
		return err
	}
	completed, err := s.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return utilerrors.NewAggregate(errs)
	}
	return apiserver.Run(ctx, completed)
}

func runControllerManager(ctx context.Context, o *serverOptions, keys *pki) error {
	s, err := manageroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	flags := pflag.NewFlagSet("kube-controller-manager", pflag.ContinueOnError)
	known, off, alias := manager.KnownControllers(), manager.ControllersDisabledByDefault(), manager.ControllerAliases()
	sets := s.Flags(known, off, alias)
	s.ParsedFlags = &sets
	for _, set := range sets.FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(append(clientFlags(o, keys, "controller-manager"),
		"--controllers="+strings.Join(controllers, ","),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+keys.file("sa.key"),
		"--root-ca-file="+keys.file("ca.crt"),
		"--min-resync-period=12h",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--endpointslice-updates-batch-period=0",
		"--horizontal-pod-autoscaler-sync-period=1s",
	)); err != nil {
		return err
	}
	if err := s.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	config, err := s.Config(ctx, known, off, alias)
	if err != nil {
		return err
	}
	return manager.Run(ctx, config.Complete())
}

func runScheduler(ctx context.Context, o *serverOptions, keys *pki) error {
	s := scheduleroptions.NewOptions()
	flags := pflag.NewFlagSet("kube-scheduler", pflag.ContinueOnError)
	for _, set := range s.Flags.FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(clientFlags(o, keys, "scheduler")); err != nil {
		return err
	}
	if err := s.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	completed, built, err := scheduler.Setup(ctx, s)
	if err != nil {
		return err
	}
	return scheduler.Run(ctx, completed, built)
}

func clientFlags(o *serverOptions, keys *pki, user string) []string {
	kubeconfig := keys.kubeconfig(user)
	return []string{"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--secure-port=0", "--profiling=false", fmt.Sprintf("--v=%d", o.verbosity)}
}
