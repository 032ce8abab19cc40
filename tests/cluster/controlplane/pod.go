// One pod's life on its node. Two goroutines: one goes through the life (live), the other takes the object's changes and writes the status (run).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type podRun struct {
	agent *agent
	first *corev1.Pod // as it was when it came: of it only what never changes is used

	wake     chan struct{} // something to write, or to look at
	stopping chan struct{} // closed: the pod is to end, in its grace period
	hard     chan struct{} // closed: the grace period is over
	gone     chan struct{} // closed: the object is gone
	goneOnce sync.Once
	changed  chan struct{} // volumes are to be looked at

	mu         sync.Mutex
	pod        *corev1.Pod // newest version
	ip         string
	netns      *os.File // of a pod with processes and no host network
	started    metav1.Time
	waiting    string // why nothing runs yet
	inits      []*container
	containers []*container
	volumes    []*volume
	ended      bool
	hardTimer  *time.Timer
	hardOnce   sync.Once
	written    string // the status that the server has
	readyAt    metav1.Time
	wasReady   bool
}

func newPodRun(a *agent, pod *corev1.Pod) *podRun {
	p := &podRun{agent: a, first: pod, pod: pod, started: metav1.Now(), readyAt: metav1.Now(), waiting: "ContainerCreating", wake: make(chan struct{}, 1),
		stopping: make(chan struct{}), hard: make(chan struct{}), gone: make(chan struct{}), changed: make(chan struct{}, 1)}
	for i := range pod.Spec.InitContainers {
		p.inits = append(p.inits, newContainer(p, &pod.Spec.InitContainers[i], true))
	}
	for i := range pod.Spec.Containers {
		p.containers = append(p.containers, newContainer(p, &pod.Spec.Containers[i], false))
	}
	return p
}

// folder holds what the pod has on disk, but for its logs, which outlive it.
func (p *podRun) folder() string { return filepath.Join(p.agent.dir, "pods", string(p.first.UID)) }

func (p *podRun) name() string { return p.first.Namespace + "/" + p.first.Name }

func nudge(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

func (p *podRun) report()  { nudge(p.wake) }
func (p *podRun) refresh() { nudge(p.changed) }

func (p *podRun) isStopping() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// update takes a new version of the object.
func (p *podRun) update(pod *corev1.Pod) {
	p.mu.Lock()
	p.pod = pod
	if pod.DeletionTimestamp != nil {
		grace := time.Duration(0)
		if pod.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
		}
		if p.hardTimer == nil {
			p.hardTimer = time.AfterFunc(grace, p.endHard)
			close(p.stopping)
		} else if p.hardTimer.Stop() {
			p.hardTimer.Reset(time.Until(pod.DeletionTimestamp.Time))
		}
	}
	p.mu.Unlock()
	p.report()
	p.refresh() // labels and annotations may stand in a volume
}

func (p *podRun) endHard() { p.hardOnce.Do(func() { close(p.hard) }) }

func (p *podRun) run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.live(ctx)
	}()
	defer func() {
		p.endHard()
		<-done
		if p.netns != nil {
			p.netns.Close()
		}
		_ = os.RemoveAll(p.folder())
	}()
	for {
		retry := (<-chan time.Time)(nil)
		if err := p.writeStatus(ctx); err != nil {
			retry = time.After(200 * time.Millisecond)
		} else if p.isOver() {
			if err := p.removeObject(ctx); err == nil {
				return
			}
			retry = time.After(200 * time.Millisecond)
		}
		select {
		case <-p.wake:
		case <-retry:
		case <-p.gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// isOver: nothing runs any more, and the object waits to be removed.
func (p *podRun) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended && p.pod.DeletionTimestamp != nil
}

func (p *podRun) removeObject(ctx context.Context) error {
	zero := int64(0)
	err := p.agent.client.CoreV1().Pods(p.first.Namespace).Delete(ctx, p.first.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero,
		Preconditions: metav1.NewUIDPreconditions(string(p.first.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// live goes through the pod's life: what it needs, init containers, containers, their end.
func (p *podRun) live(ctx context.Context) {
	defer func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.report()
	}()
	if p.isEcho() {
		p.liveEcho(ctx)
		return
	}
	// One that cannot be set up is tried again until it is deleted: what it waits for may come.
	for {
		err := p.prepare(ctx)
		if err == nil {
			break
		}
		p.mu.Lock()
		if p.waiting != err.Error() {
			say("pod %s: %v", p.name(), err)
		}
		p.waiting = err.Error()
		p.mu.Unlock()
		p.report()
		select {
		case <-p.stopping:
			return
		case <-p.gone:
			return
		case <-ctx.Done():
			return
		case <-p.changed:
		case <-time.After(200 * time.Millisecond):
		}
	}
	keeping, stopKeeping := context.WithCancel(ctx)
	defer stopKeeping()
	go p.keepVolumes(keeping)
	for _, c := range p.inits {
		if !c.live() {
			return
		}
	}
	var all sync.WaitGroup
	for _, c := range p.containers {
		all.Go(func() { c.live() })
	}
	all.Wait()
}

func (p *podRun) prepare(ctx context.Context) error {
	p.mu.Lock()
	ip := p.ip
	p.mu.Unlock()
	if ip == "" {
		var netns *os.File
		var err error
		if p.first.Spec.HostNetwork {
			ip = p.agent.nodes[p.first.Spec.NodeName]
		} else if ip, netns, err = p.agent.network.join(ctx); err != nil {
			return err
		}
		p.mu.Lock()
		p.ip, p.netns = ip, netns
		p.mu.Unlock()
	}
	if p.volumes == nil {
		p.volumes = newVolumes(p)
	}
	return p.writeVolumes(ctx)
}

// ---- status

func (p *podRun) writeStatus(ctx context.Context) error {
	p.mu.Lock()
	status := p.status()
	p.mu.Unlock()
	text, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	if string(text) == p.written {
		return nil
	}
	_, err = p.agent.client.CoreV1().Pods(p.first.Namespace).Patch(ctx, p.first.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err == nil {
		p.written = string(text)
	}
	return err
}

func (p *podRun) status() corev1.PodStatus {
	initialized, ready := true, true
	running, finished, failed := 0, 0, 0
	status := corev1.PodStatus{HostIP: p.agent.nodes[p.first.Spec.NodeName], PodIP: p.ip, StartTime: &p.started}
	if p.ip != "" {
		status.PodIPs = []corev1.PodIP{{IP: p.ip}}
	}
	for _, c := range p.inits {
		status.InitContainerStatuses = append(status.InitContainerStatuses, c.status(p.waiting))
		initialized = initialized && c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	}
	for _, c := range p.containers {
		status.ContainerStatuses = append(status.ContainerStatuses, c.status(p.waiting))
		ready = ready && c.ready
		switch {
		case c.state.Running != nil || c.restarts > 0:
			running++
		case c.state.Terminated != nil:
			finished++
			if c.state.Terminated.ExitCode != 0 {
				failed++
			}
		}
	}
	switch {
	case p.ended && finished > 0 && failed == 0:
		status.Phase = corev1.PodSucceeded
	case p.ended && (finished > 0 || running > 0):
		status.Phase = corev1.PodFailed
	case running+finished > 0:
		status.Phase = corev1.PodRunning
	default:
		status.Phase = corev1.PodPending
	}
	if ready != p.wasReady {
		p.wasReady, p.readyAt = ready, metav1.Now()
	}
	status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodInitialized, Status: truth(initialized), LastTransitionTime: p.started},
		{Type: corev1.ContainersReady, Status: truth(ready), LastTransitionTime: p.readyAt},
		{Type: corev1.PodReady, Status: truth(ready), LastTransitionTime: p.readyAt}}
	return status
}

func truth(holds bool) corev1.ConditionStatus {
	if holds {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

// annotation returns one of the newest version's.
func (p *podRun) annotation(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pod.Annotations[name]
}

// wait returns false if the pod is to end before the time is over.
func (p *podRun) wait(duration time.Duration) bool {
	select {
	case <-time.After(duration):
		return true
	case <-p.stopping:
	case <-p.hard:
	case <-p.gone:
	}
	return false
}

func (p *podRun) String() string { return fmt.Sprintf("pod %s", p.name()) }
