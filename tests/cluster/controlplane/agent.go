// The node agent: what a kubelet, a container runtime, a network plug-in, kube-proxy and a cloud's load balancer would do, as far as tests need it.
//
//   - It makes the nodes, and gives each pod that is bound to one an address in 10.244.0.0/16 and its life: volumes, containers, probes, hooks, restarts, its end.
//   - A pod whose image lies under -images runs that image's programs as containers (process.go). Any other pod is an echo server inside this process (echo.go).
//   - Services get their ClusterIP, and those of type LoadBalancer an address that tests can dial (services.go).
//
// Readiness of an echo pod is steered by annotations (see echo.go).
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

type agent struct {
	dir, images, launch, serviceHost string
	client                           kubernetes.Interface
	nodes                            map[string]string // name to address
	network                          *network
	configMaps                       corelisters.ConfigMapLister
	secrets                          corelisters.SecretLister

	mu   sync.Mutex
	pods map[types.UID]*podRun
}

func nodesMain(ctx context.Context, arguments []string) error {
	a := &agent{nodes: map[string]string{}, pods: map[types.UID]*podRun{}}
	flags := flag.NewFlagSet("nodes", flag.ExitOnError)
	flags.StringVar(&a.dir, "dir", "", "state directory of the server")
	flags.StringVar(&a.images, "images", "", "folder of images: IMAGE/rootfs and IMAGE/image.json")
	flags.StringVar(&a.launch, "launch", "", "the launch program")
	flags.StringVar(&a.serviceHost, "service-host", "10.96.0.1", "ClusterIP of the API server")
	count := flags.Int("nodes", 2, "how many nodes")
	apiServer := flags.String("apiserver", "127.0.0.1:6443", "where the kubernetes Service leads")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// Retries while the server is away are part of the tests; they need not fill the log.
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	_ = klogFlags.Set("logtostderr", "false")
	klog.SetOutput(os.Stderr)
	_ = klogFlags.Set("stderrthreshold", "FATAL")

	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(a.dir, "admin.kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 500, 1000
	if a.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if a.network, err = newNetwork(ctx); err != nil {
		return err
	}
	for i := range *count {
		if err := a.addNode(ctx, fmt.Sprintf("node-%d", i+1), fmt.Sprintf("10.250.0.%d", i+1)); err != nil {
			return err
		}
	}
	factory := informers.NewSharedInformerFactory(a.client, 0)
	core := factory.Core().V1()
	a.configMaps, a.secrets = core.ConfigMaps().Lister(), core.Secrets().Lister()
	pods := core.Pods().Informer()
	watches := []cache.InformerSynced{pods.HasSynced}
	for _, informer := range []cache.SharedIndexInformer{core.ConfigMaps().Informer(), core.Secrets().Informer()} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: a.sourceChanged, UpdateFunc: func(_, o any) { a.sourceChanged(o) }, DeleteFunc: a.sourceChanged})
		if err != nil {
			return err
		}
		watches = append(watches, informer.HasSynced)
	}
	if err := serveServices(ctx, a.client, factory, *apiServer); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), watches...) {
		return ctx.Err()
	}
	// Only now: a pod's first look at a ConfigMap finds it.
	var running sync.WaitGroup
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.podChanged(ctx, &running, o) },
		UpdateFunc: func(_, o any) { a.podChanged(ctx, &running, o) },
		DeleteFunc: a.podDeleted,
	}); err != nil {
		return err
	}
	say("ready")
	if err := os.WriteFile(filepath.Join(a.dir, "nodes-ready"), nil, 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

func (a *agent) addNode(ctx context.Context, name, address string) error {
	now := metav1.Now()
	capacity := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("1000"), "ephemeral-storage": resource.MustParse("1Ti")}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": runtime.GOARCH, "topology.kubernetes.io/zone": "zone-" + name}}}
	node, err := a.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		node, err = a.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	// Admission taints every new node as not ready, and the controller that takes that away is not run here.
	node.Spec.Taints = nil
	if node, err = a.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	logs, err := serveLogs(a, address)
	if err != nil {
		return err
	}
	node.Status = corev1.NodeStatus{Capacity: capacity, Allocatable: capacity,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name}},
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "NodeAgent", LastHeartbeatTime: now, LastTransitionTime: now}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(logs)}},
		NodeInfo:        corev1.NodeSystemInfo{KubeletVersion: "v1.36.3-agent", OperatingSystem: "linux", Architecture: runtime.GOARCH}}
	if _, err = a.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err == nil {
		a.nodes[name] = address
	}
	return err
}

func (a *agent) podChanged(ctx context.Context, running *sync.WaitGroup, o any) {
	pod := o.(*corev1.Pod)
	if a.nodes[pod.Spec.NodeName] == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		if a.nodes[pod.Spec.NodeName] == "" || pod.DeletionTimestamp == nil {
			return
		}
	}
	a.mu.Lock()
	run := a.pods[pod.UID]
	if run == nil {
		run = newPodRun(a, pod)
		a.pods[pod.UID] = run
		running.Go(func() {
			run.run(ctx)
			a.mu.Lock()
			delete(a.pods, pod.UID)
			a.mu.Unlock()
		})
	}
	a.mu.Unlock()
	run.update(pod)
}

func (a *agent) podDeleted(o any) {
	if lost, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = lost.Obj
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	a.mu.Lock()
	run := a.pods[pod.UID]
	a.mu.Unlock()
	if run != nil {
		run.goneOnce.Do(func() { close(run.gone) })
	}
}

// sourceChanged: a ConfigMap or a Secret; the volumes of the namespace's pods are looked at again.
func (a *agent) sourceChanged(o any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
	if err != nil {
		return
	}
	namespace, _, _ := cache.SplitMetaNamespaceKey(key)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, run := range a.pods {
		if run.first.Namespace == namespace {
			run.refresh()
		}
	}
}

// imageName drops the digest and the tag.
func imageName(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if colon := strings.LastIndexByte(reference, ':'); colon > strings.LastIndexByte(reference, '/') {
		reference = reference[:colon]
	}
	return reference
}

// listen is net.Listen for an address of ours that may still be bound by a pod that is ending.
func listen(address string, port int32) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
}
