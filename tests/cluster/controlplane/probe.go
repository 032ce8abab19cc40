// Probes, by the kubelet's own probers. A container that is not ready yet is asked every 100 ms, so that tests do not wait for a period to end.
package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
	probetcp "k8s.io/kubernetes/pkg/probe/tcp"
)

const eagerPeriod = 100 * time.Millisecond

// probe starts the container's probes; they end with the process. The channel says why it must be restarted.
func (c *container) probe(process *process) <-chan string {
	unhealthy := make(chan string, 3)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-process.done
		cancel()
	}()
	watch := func() {
		if c.spec.ReadinessProbe != nil {
			go c.keepAsking(ctx, process, c.spec.ReadinessProbe, func(ok bool, _ string) {
				c.change(func() { c.ready = ok })
			})
		} else {
			c.change(func() { c.ready = !c.isInit })
		}
		if c.spec.LivenessProbe != nil {
			go c.keepAsking(ctx, process, c.spec.LivenessProbe, func(ok bool, why string) {
				if !ok && !c.pod.isStopping() {
					unhealthy <- "liveness: " + why
				}
			})
		}
	}
	if c.spec.StartupProbe == nil {
		watch()
		return unhealthy
	}
	started := false
	startup, endStartup := context.WithCancel(ctx)
	go c.keepAsking(startup, process, c.spec.StartupProbe, func(ok bool, why string) {
		switch {
		case ok && !started:
			started = true
			c.change(func() { c.started = true })
			watch()
			endStartup()
		case !ok && !c.pod.isStopping():
			unhealthy <- "startup: " + why
			endStartup()
		}
	})
	return unhealthy
}

// keepAsking reports each change of the verdict: the first success, then whatever crosses a threshold.
func (c *container) keepAsking(ctx context.Context, process *process, p *corev1.Probe, report func(ok bool, why string)) {
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return
	}
	isReadiness := p == c.spec.ReadinessProbe
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	isGood, wasBad, good, bad := false, false, int32(0), int32(0)
	last := time.Now()
	for {
		ok, why := c.ask(process, p)
		if ctx.Err() != nil {
			return
		}
		if ok {
			good, bad = good+1, 0
			if !isGood && good >= max(p.SuccessThreshold, 1) {
				isGood, wasBad = true, false
				report(true, "")
			}
		} else {
			good = 0
			// Eager questions between two periods are no failures of their own.
			if isGood || time.Since(last) >= period {
				bad, last = bad+1, time.Now()
			}
			if bad >= max(p.FailureThreshold, 1) && !wasBad {
				isGood, wasBad = false, true
				report(false, why)
			}
		}
		pause := period
		if !isGood && (isReadiness || p == c.spec.StartupProbe) {
			pause = min(period, eagerPeriod)
		} else {
			last = time.Now()
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

func (c *container) ask(process *process, p *corev1.Probe) (bool, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	var result probe.Result
	var why string
	var err error
	switch {
	case p.HTTPGet != nil:
		request, failed := probehttp.NewRequestForHTTPGetAction(p.HTTPGet, c.spec, c.pod.ip, "probe")
		if failed != nil {
			return false, failed.Error()
		}
		result, why, err = probehttp.New(false).Probe(request, timeout)
	case p.TCPSocket != nil:
		port, failed := probe.ResolveContainerPort(p.TCPSocket.Port, c.spec)
		if failed != nil {
			return false, failed.Error()
		}
		result, why, err = probetcp.New().Probe(c.pod.ip, port, timeout)
	case p.Exec != nil:
		output, failed := process.exec(timeout, p.Exec.Command)
		return failed == nil, fmt.Sprintf("%v: %s", failed, output)
	default:
		return true, ""
	}
	if err != nil {
		return false, err.Error()
	}
	return result == probe.Success || result == probe.Warning, why
}

func sleep(ctx context.Context, duration time.Duration) bool {
	select {
	case <-time.After(duration):
		return true
	case <-ctx.Done():
		return false
	}
}
