// Pods without an image of ours: an HTTP/1.1 and h2c server inside this process, on the pod's own address, that answers with the request it saw.
// Their readiness and end are steered by annotations, which may change at any time:
//
//	moongate.test/ready: "false"     the pod runs and is not ready
//	moongate.test/stop-after: 3s     how long a deleted pod goes on serving, within its grace period
package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	annotationReady     = "moongate.test/ready"
	annotationStopAfter = "moongate.test/stop-after"
)

func (p *podRun) isEcho() bool {
	for _, c := range p.first.Spec.Containers {
		if p.agent.hasImage(c.Image) {
			return false
		}
	}
	return true
}

func (p *podRun) liveEcho(ctx context.Context) {
	ip := p.agent.network.echoAddress()
	if p.first.Spec.HostNetwork {
		ip = p.agent.nodes[p.first.Spec.NodeName]
	}
	servers, err := p.listenEcho(ip)
	defer func() {
		for _, server := range servers {
			_ = server.Close()
		}
	}()
	if err != nil {
		say("pod %s: %v", p.name(), err)
		return
	}
	p.mu.Lock()
	p.ip = ip
	for _, c := range p.inits {
		c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: p.started, FinishedAt: metav1.Now()}}
	}
	for _, c := range p.containers {
		c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		c.started = true
	}
	p.mu.Unlock()
	for !p.isStopping() {
		p.setReady(p.annotation(annotationReady) != "false")
		select {
		case <-p.changed: // each new version of the object comes through here
		case <-p.stopping:
		case <-p.gone:
			return
		case <-ctx.Done():
			return
		}
	}
	if grace, err := time.ParseDuration(p.annotation(annotationStopAfter)); err == nil {
		select {
		case <-time.After(grace):
		case <-p.hard:
		case <-p.gone:
		}
	}
	p.mu.Lock()
	for _, c := range p.containers {
		c.ready = false
		c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: p.started, FinishedAt: metav1.Now()}}
	}
	p.mu.Unlock()
}

func (p *podRun) setReady(ready bool) {
	p.mu.Lock()
	for _, c := range p.containers {
		c.ready = ready
	}
	p.mu.Unlock()
	p.report()
}

func (p *podRun) listenEcho(ip string) ([]*http.Server, error) {
	path := p.agent.logFile(p.first, p.first.Spec.Containers[0].Name, 0)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Echo-Name", p.first.Name)
		_, _ = log.WriteString(r.Method + " " + r.RequestURI + " name=" + p.first.Name + "\n")
		_ = json.NewEncoder(w).Encode(map[string]any{"name": p.first.Name, "namespace": p.first.Namespace, "ip": ip, "method": r.Method, "proto": r.Proto,
			"host": r.Host, "path": r.RequestURI, "headers": r.Header, "client": r.RemoteAddr, "body": string(body)})
	})
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	var servers []*http.Server
	for _, c := range p.first.Spec.Containers {
		for _, port := range c.Ports {
			if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
				continue
			}
			listener, err := listen(ip, port.ContainerPort)
			if err != nil {
				return servers, err
			}
			server := &http.Server{Handler: handler, Protocols: protocols}
			servers = append(servers, server)
			go func() { _ = server.Serve(listener) }()
		}
	}
	return servers, nil
}
