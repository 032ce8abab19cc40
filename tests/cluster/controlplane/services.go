// Services over TCP: each ClusterIP and port, and each address that a Service of type LoadBalancer gets here (published in its status), is listened on in
// this process, and each connection is led to one of the ready endpoints in turn; to terminating ones that still serve if none is ready. A connection that
// cannot be made is not tried elsewhere, as no kube-proxy would.
//
//	moongate.test/proxy-protocol: "true"    on a LoadBalancer: its connections begin with a PROXY protocol v1 line
//
// The kubernetes Service leads to the API server.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const annotationProxyProtocol = "moongate.test/proxy-protocol"

type services struct {
	client    kubernetes.Interface
	apiServer string
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	fronts    map[string]map[string]*front // by Service, then by address and port; touched by one goroutine
	balancers map[types.UID]string         // addresses given
}

// front is one listener.
type front struct {
	listener    net.Listener
	targets     atomic.Pointer[[]string]
	next        atomic.Uint32
	isProxyLine atomic.Bool
}

func serveServices(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, apiServer string) error {
	s := &services{client: client, apiServer: apiServer, services: factory.Core().V1().Services().Lister(), slices: factory.Discovery().V1().EndpointSlices().Lister(),
		fronts: map[string]map[string]*front{}, balancers: map[types.UID]string{}}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, time.Second))
	enqueue := func(o any) {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o)
		if err != nil {
			return
		}
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			key = slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
		}
		queue.Add(key)
	}
	for _, informer := range []cache.SharedIndexInformer{factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) }, DeleteFunc: enqueue}); err != nil {
			return err
		}
	}
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	go func() {
		for {
			key, quit := queue.Get()
			if quit {
				return
			}
			if err := s.sync(ctx, key); err != nil && ctx.Err() == nil {
				say("service %s: %v", key, err)
				queue.AddRateLimited(key)
			} else {
				queue.Forget(key)
			}
			queue.Done(key)
		}
	}()
	return nil
}

func (s *services) sync(ctx context.Context, key string) error {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	wanted := map[string][]string{}
	service, err := s.services.Services(namespace).Get(name)
	if err == nil {
		addresses, err := s.addresses(ctx, service)
		if err != nil {
			return err
		}
		targets, err := s.targets(service)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			for _, port := range service.Spec.Ports {
				if port.Protocol == corev1.ProtocolTCP {
					wanted[net.JoinHostPort(address, fmt.Sprint(port.Port))] = targets[port.Name]
				}
			}
		}
	}
	have := s.fronts[key]
	for at, f := range have {
		if _, ok := wanted[at]; !ok {
			f.listener.Close()
			delete(have, at)
		}
	}
	if len(wanted) == 0 {
		delete(s.fronts, key)
		return nil
	}
	if have == nil {
		have = map[string]*front{}
		s.fronts[key] = have
	}
	for at, targets := range wanted {
		f := have[at]
		if f == nil {
			listener, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			f = &front{listener: listener}
			have[at] = f
			f.targets.Store(&targets)
			go f.serve()
		}
		f.targets.Store(&targets)
		f.isProxyLine.Store(service.Annotations[annotationProxyProtocol] == "true")
	}
	return nil
}

// addresses: the ClusterIP, and the balancer's, which is published.
func (s *services) addresses(ctx context.Context, service *corev1.Service) ([]string, error) {
	var addresses []string
	if ip := net.ParseIP(service.Spec.ClusterIP); ip != nil && ip.To4() != nil {
		addresses = append(addresses, service.Spec.ClusterIP)
	}
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return addresses, nil
	}
	address := s.balancers[service.UID]
	if address == "" {
		number := len(s.balancers)
		address = fmt.Sprintf("10.250.%d.%d", 1+number/250, number%250+1)
		s.balancers[service.UID] = address
	}
	if len(service.Status.LoadBalancer.Ingress) == 0 {
		patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, address)
		if _, err := s.client.CoreV1().Services(service.Namespace).Patch(ctx, service.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			return nil, err
		}
	}
	return append(addresses, address), nil
}

// targets by port name.
func (s *services) targets(service *corev1.Service) (map[string][]string, error) {
	if service.Namespace == "default" && service.Name == "kubernetes" {
		return map[string][]string{"https": {s.apiServer}}, nil
	}
	slices, err := s.slices.EndpointSlices(service.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}))
	if err != nil {
		return nil, err
	}
	ready, leaving := map[string][]string{}, map[string][]string{}
	is := func(condition *bool, absent bool) bool {
		if condition == nil {
			return absent
		}
		return *condition
	}
	for _, slice := range slices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				at := net.JoinHostPort(endpoint.Addresses[0], fmt.Sprint(*port.Port))
				if is(endpoint.Conditions.Ready, true) {
					ready[*port.Name] = append(ready[*port.Name], at)
				} else if is(endpoint.Conditions.Serving, false) && is(endpoint.Conditions.Terminating, false) {
					leaving[*port.Name] = append(leaving[*port.Name], at)
				}
			}
		}
	}
	for name, targets := range leaving {
		if len(ready[name]) == 0 {
			ready[name] = targets
		}
	}
	return ready, nil
}

func (f *front) serve() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		go f.lead(client.(*net.TCPConn))
	}
}

func (f *front) lead(client *net.TCPConn) {
	defer client.Close()
	targets := *f.targets.Load()
	if len(targets) == 0 {
		_ = client.SetLinger(0) // refused, as far as it can be told apart from here
		return
	}
	target := targets[int(f.next.Add(1)-1)%len(targets)]
	dialed, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := dialed.(*net.TCPConn)
	defer server.Close()
	if f.isProxyLine.Load() {
		from, to := client.RemoteAddr().(*net.TCPAddr), client.LocalAddr().(*net.TCPAddr)
		if _, err := fmt.Fprintf(server, "PROXY TCP4 %s %s %d %d\r\n", from.IP, to.IP, from.Port, to.Port); err != nil {
			return
		}
	}
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
		both.Go(func() {
			_, err := io.Copy(way[1], way[0])
			if err != nil && !strings.Contains(err.Error(), "closed") {
				// A reset is passed on as one.
				_ = way[1].SetLinger(0)
				_ = way[0].SetLinger(0)
				way[1].Close()
				way[0].Close()
				return
			}
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}
