// One container: started, probed, restarted, stopped with its hook and in its grace period. process.go holds what a running one is.
package main

import (
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
)

type container struct {
	pod     *podRun
	spec    *corev1.Container
	isInit  bool
	process *process // touched by live alone

	// Under pod.mu.
	state, last    corev1.ContainerState
	ready, started bool
	restarts       int32
	id             string
}

func newContainer(p *podRun, spec *corev1.Container, isInit bool) *container {
	return &container{pod: p, spec: spec, isInit: isInit}
}

func (c *container) status(waiting string) corev1.ContainerStatus {
	state := c.state
	if state == (corev1.ContainerState{}) {
		reason, message := waiting, ""
		if reason != "ContainerCreating" {
			reason, message = "CreateContainerConfigError", waiting
		}
		state.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	}
	started := c.started
	return corev1.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, ContainerID: c.id, Ready: c.ready, Started: &started,
		RestartCount: c.restarts, State: state, LastTerminationState: c.last}
}

func (c *container) change(how func()) {
	c.pod.mu.Lock()
	how()
	c.pod.mu.Unlock()
	c.pod.report()
}

// live runs the container, again and again as the pod's policy says, until the pod ends; true if it ended by itself with status 0.
func (c *container) live() bool {
	for {
		code := c.runOnce()
		if c.pod.isStopping() || c.isPodGone() {
			return false
		}
		policy := c.pod.first.Spec.RestartPolicy
		if code == 0 && (c.isInit || policy != corev1.RestartPolicyAlways) {
			return true
		}
		if policy == corev1.RestartPolicyNever {
			return false
		}
		delay := c.backOff()
		c.change(func() {
			c.last, c.restarts = c.state, c.restarts+1
			if delay > 0 {
				c.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off %v", delay)}}
			}
		})
		if delay > 0 && !c.pod.wait(delay) {
			return false
		}
	}
}

func (c *container) isPodGone() bool {
	select {
	case <-c.pod.gone:
		return true
	case <-c.pod.hard:
		return true
	default:
		return false
	}
}

// backOff: at once the first time, then doubling; shorter than a kubelet's, as tests wait for it.
func (c *container) backOff() time.Duration {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.restarts == 0 {
		return 0
	}
	return min(500*time.Millisecond<<min(c.restarts, 5), 10*time.Second)
}

// runOnce returns the exit status.
func (c *container) runOnce() int32 {
	begin := metav1.Now()
	process, err := c.startProcess()
	if err != nil {
		say("container %s of %s: %v", c.spec.Name, c.pod.name(), err)
		c.change(func() {
			c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: err.Error(), StartedAt: begin, FinishedAt: metav1.Now()}}
		})
		return 128
	}
	c.process = process
	c.change(func() {
		c.id = fmt.Sprintf("process://%d", process.pid)
		c.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: begin}}
		c.started = c.spec.StartupProbe == nil
		c.ready = c.started && c.spec.ReadinessProbe == nil && !c.isInit
	})
	unhealthy := c.probe(process)
	select {
	case <-process.done:
	case why := <-unhealthy:
		say("container %s of %s is restarted: %s", c.spec.Name, c.pod.name(), why)
		c.stop(process, time.After(c.grace()))
	case <-c.pod.stopping:
		c.stop(process, nil)
	case <-c.pod.gone:
		process.kill()
	case <-c.pod.hard:
		process.kill()
	}
	<-process.done
	code := process.exitCode()
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	c.change(func() {
		c.ready, c.started = false, false
		c.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: begin, FinishedAt: metav1.Now(), ContainerID: c.id}}
	})
	return code
}

func (c *container) grace() time.Duration {
	if seconds := c.pod.first.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return 30 * time.Second
}

// stop: the hook, SIGTERM, and SIGKILL when the pod's grace period, or `deadline` if it is given, is over. Readiness goes on being probed meanwhile.
func (c *container) stop(process *process, deadline <-chan time.Time) {
	over := func(event <-chan struct{}) bool {
		select {
		case <-event:
			return false
		case <-deadline:
		case <-c.pod.hard:
		case <-c.pod.gone:
		}
		process.kill()
		return true
	}
	if c.spec.Lifecycle != nil && c.spec.Lifecycle.PreStop != nil {
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			if err := c.runHook(process, c.spec.Lifecycle.PreStop); err != nil {
				say("preStop of %s in %s: %v", c.spec.Name, c.pod.name(), err)
			}
		}()
		// A program that ends while its hook runs ends the hook.
		both := make(chan struct{})
		go func() {
			defer close(both)
			select {
			case <-ran:
			case <-process.done:
			}
		}()
		if over(both) {
			return
		}
	}
	process.terminate()
	over(process.done)
}

func (c *container) runHook(process *process, hook *corev1.LifecycleHandler) error {
	switch {
	case hook.Exec != nil:
		output, err := process.exec(c.grace(), hook.Exec.Command)
		if err != nil {
			return fmt.Errorf("%v: %w: %s", hook.Exec.Command, err, output)
		}
	case hook.HTTPGet != nil:
		request, err := probehttp.NewRequestForHTTPGetAction(hook.HTTPGet, c.spec, c.pod.ip, "lifecycle")
		if err != nil {
			return err
		}
		answer, err := (&http.Client{Timeout: c.grace()}).Do(request)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	case hook.Sleep != nil:
		time.Sleep(time.Duration(hook.Sleep.Seconds) * time.Second)
	}
	return nil
}
