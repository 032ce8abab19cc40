// Volumes: ConfigMap, Secret, projected (service account tokens included) and downward API by the kubelet's own writer, which swaps the ..data symlink;
// emptyDir and hostPath. A change of a source is in the pod's files some milliseconds later.
//
//	moongate.test/token-refresh: 2s    tokens are asked for anew that often, instead of at 80% of their life, which is ten minutes at least
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

const annotationTokenRefresh = "moongate.test/token-refresh"

type volume struct {
	spec   *corev1.Volume
	folder string
	tokens map[int]*token // by index of the projected source
}

type token struct {
	text  string
	until time.Time // when the next one is asked for
}

type payload = map[string]volumeutil.FileProjection

func newVolumes(p *podRun) []*volume {
	volumes := []*volume{}
	for i := range p.first.Spec.Volumes {
		spec := &p.first.Spec.Volumes[i]
		v := &volume{spec: spec, folder: filepath.Join(p.folder(), "volumes", spec.Name), tokens: map[int]*token{}}
		if spec.HostPath != nil {
			v.folder = spec.HostPath.Path
		}
		volumes = append(volumes, v)
	}
	return volumes
}

func (p *podRun) writeVolumes(ctx context.Context) error {
	for _, v := range p.volumes {
		if err := p.writeVolume(ctx, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.spec.Name, err)
		}
	}
	return nil
}

// keepVolumes writes them again when a source has changed or a token is due.
func (p *podRun) keepVolumes(ctx context.Context) {
	for {
		var due <-chan time.Time
		if next, ok := p.nextToken(); ok {
			due = time.After(time.Until(next))
		}
		select {
		case <-p.changed:
		case <-due:
		case <-ctx.Done():
			return
		}
		// What cannot be written now keeps its content, as with a kubelet.
		if err := p.writeVolumes(ctx); err != nil && ctx.Err() == nil {
			if !sleep(ctx, 200*time.Millisecond) {
				return
			}
			p.refresh()
		}
	}
}

func (p *podRun) nextToken() (next time.Time, ok bool) {
	for _, v := range p.volumes {
		for _, t := range v.tokens {
			if !ok || t.until.Before(next) {
				next, ok = t.until, true
			}
		}
	}
	return next, ok
}

func (p *podRun) writeVolume(ctx context.Context, v *volume) error {
	if v.spec.HostPath != nil {
		return nil
	}
	if err := os.MkdirAll(v.folder, 0o755); err != nil {
		return err
	}
	if v.spec.EmptyDir != nil {
		// umask does not hold for Chmod.
		if err := os.Chmod(v.folder, 0o777); err != nil {
			return err
		}
		return p.giveToGroup(v.folder)
	}
	content, err := p.gather(ctx, v)
	if err != nil {
		return err
	}
	writer, err := volumeutil.NewAtomicWriter(v.folder, p.name())
	if err != nil {
		return err
	}
	return writer.Write(content, func(sub string) error {
		return filepath.WalkDir(filepath.Join(v.folder, sub), func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				err = p.giveToGroup(path)
			}
			return err
		})
	})
}

// giveToGroup: the pod's fsGroup may read.
func (p *podRun) giveToGroup(path string) error {
	if p.first.Spec.SecurityContext == nil || p.first.Spec.SecurityContext.FSGroup == nil {
		return nil
	}
	if err := os.Lchown(path, -1, int(*p.first.Spec.SecurityContext.FSGroup)); err != nil {
		return err
	}
	about, err := os.Lstat(path)
	if err != nil || about.Mode()&os.ModeSymlink != 0 {
		return err
	}
	more := os.FileMode(0o440)
	if about.IsDir() {
		more = 0o550
	}
	return os.Chmod(path, about.Mode()|more)
}

func (p *podRun) gather(ctx context.Context, v *volume) (payload, error) {
	s := v.spec
	switch {
	case s.ConfigMap != nil:
		return p.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.DefaultMode, s.ConfigMap.Optional)
	case s.Secret != nil:
		return p.secret(s.Secret.SecretName, s.Secret.Items, s.Secret.DefaultMode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return p.downward(s.DownwardAPI.Items, s.DownwardAPI.DefaultMode)
	case s.Projected != nil:
		all := payload{}
		for i, source := range s.Projected.Sources {
			var one payload
			var err error
			switch {
			case source.ConfigMap != nil:
				one, err = p.configMap(source.ConfigMap.Name, source.ConfigMap.Items, s.Projected.DefaultMode, source.ConfigMap.Optional)
			case source.Secret != nil:
				one, err = p.secret(source.Secret.Name, source.Secret.Items, s.Projected.DefaultMode, source.Secret.Optional)
			case source.DownwardAPI != nil:
				one, err = p.downward(source.DownwardAPI.Items, s.Projected.DefaultMode)
			case source.ServiceAccountToken != nil:
				one, err = p.token(ctx, v, i, source.ServiceAccountToken, *s.Projected.DefaultMode)
			}
			if err != nil {
				return nil, err
			}
			maps.Copy(all, one)
		}
		return all, nil
	}
	return nil, fmt.Errorf("this kind is not known here")
}

func (p *podRun) configMap(name string, items []corev1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	object, err := p.agent.configMaps.ConfigMaps(p.first.Namespace).Get(name)
	if err != nil {
		if err = unless(optional, err); err != nil {
			return nil, err
		}
		object = &corev1.ConfigMap{}
	}
	return configmap.MakePayload(items, object, mode, optional != nil && *optional)
}

func (p *podRun) secret(name string, items []corev1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	object, err := p.agent.secrets.Secrets(p.first.Namespace).Get(name)
	if err != nil {
		if err = unless(optional, err); err != nil {
			return nil, err
		}
		object = &corev1.Secret{}
	}
	return secret.MakePayload(items, object, mode, optional != nil && *optional)
}

func (p *podRun) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) (payload, error) {
	content := payload{}
	for _, item := range items {
		if item.FieldRef == nil {
			return nil, fmt.Errorf("%s: only fieldRef is known here", item.Path)
		}
		value, err := p.field(item.FieldRef.FieldPath)
		if err != nil {
			return nil, err
		}
		one := volumeutil.FileProjection{Data: []byte(value), Mode: *mode}
		if item.Mode != nil {
			one.Mode = *item.Mode
		}
		content[item.Path] = one
	}
	return content, nil
}

// token asks the API server for one bound to this pod, and again when it is due. The file belongs to the pod's user where all containers have the same.
func (p *podRun) token(ctx context.Context, v *volume, index int, source *corev1.ServiceAccountTokenProjection, mode int32) (payload, error) {
	t := v.tokens[index]
	if t == nil || time.Now().After(t.until) {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: source.ExpirationSeconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.first.Name, UID: p.first.UID}}}
		if source.Audience != "" {
			request.Spec.Audiences = []string{source.Audience}
		}
		answer, err := p.agent.client.CoreV1().ServiceAccounts(p.first.Namespace).CreateToken(ctx, p.first.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		life := time.Until(answer.Status.ExpirationTimestamp.Time) * 8 / 10
		if every, err := time.ParseDuration(p.annotation(annotationTokenRefresh)); err == nil {
			life = every
		}
		t = &token{answer.Status.Token, time.Now().Add(life)}
		v.tokens[index] = t
	}
	one := volumeutil.FileProjection{Data: []byte(t.text), Mode: mode, FsUser: p.commonUser()}
	if one.FsUser != nil || p.first.Spec.SecurityContext != nil && p.first.Spec.SecurityContext.FSGroup != nil {
		one.Mode = 0o600
	}
	return payload{source.Path: one}, nil
}

func (p *podRun) commonUser() *int64 {
	var common *int64
	for i, c := range p.first.Spec.Containers {
		var user *int64
		if p.first.Spec.SecurityContext != nil {
			user = p.first.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			user = c.SecurityContext.RunAsUser
		}
		if user == nil || i > 0 && *user != *common {
			return nil
		}
		common = user
	}
	return common
}
