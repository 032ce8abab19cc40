// A container's environment: the image's, the API server's address, envFrom, env, with $(NAME) filled in.
package main

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment returns NAME=VALUE, and what fills in $(NAME) in commands and arguments.
func (c *container) environment(image []string) ([]string, func(string) string, error) {
	p := c.pod
	env := append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + p.first.Name,
		"KUBERNETES_SERVICE_HOST=" + p.agent.serviceHost, "KUBERNETES_SERVICE_PORT=443"}, image...)
	values := map[string]string{"KUBERNETES_SERVICE_HOST": p.agent.serviceHost, "KUBERNETES_SERVICE_PORT": "443"}
	set := func(name, value string) {
		values[name] = value
		env = append(env, name+"="+value)
	}
	for _, from := range c.spec.EnvFrom {
		data, err := p.agent.envSource(p.first.Namespace, &from)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(data)) {
			set(from.Prefix+name, data[name])
		}
	}
	for _, one := range c.spec.Env {
		if one.ValueFrom == nil {
			set(one.Name, expansion.Expand(one.Value, expansion.MappingFuncFor(values)))
			continue
		}
		value, found, err := c.envValue(one.ValueFrom)
		if err != nil {
			return nil, nil, fmt.Errorf("env %s: %w", one.Name, err)
		}
		if found {
			set(one.Name, value)
		}
	}
	return env, func(word string) string { return expansion.Expand(word, expansion.MappingFuncFor(values)) }, nil
}

func (a *agent) envSource(namespace string, from *corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		object, err := a.configMaps.ConfigMaps(namespace).Get(from.ConfigMapRef.Name)
		if err == nil {
			return object.Data, nil
		}
		return nil, unless(from.ConfigMapRef.Optional, err)
	case from.SecretRef != nil:
		object, err := a.secrets.Secrets(namespace).Get(from.SecretRef.Name)
		if err != nil {
			return nil, unless(from.SecretRef.Optional, err)
		}
		data := map[string]string{}
		for name, value := range object.Data {
			data[name] = string(value)
		}
		return data, nil
	}
	return nil, nil
}

func (c *container) envValue(from *corev1.EnvVarSource) (string, bool, error) {
	p := c.pod
	switch {
	case from.FieldRef != nil:
		value, err := p.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		object, err := p.agent.configMaps.ConfigMaps(p.first.Namespace).Get(from.ConfigMapKeyRef.Name)
		if err != nil {
			return "", false, unless(from.ConfigMapKeyRef.Optional, err)
		}
		value, found := object.Data[from.ConfigMapKeyRef.Key]
		if !found {
			return "", false, unless(from.ConfigMapKeyRef.Optional, fmt.Errorf("configmap %s has no key %s", object.Name, from.ConfigMapKeyRef.Key))
		}
		return value, true, nil
	case from.SecretKeyRef != nil:
		object, err := p.agent.secrets.Secrets(p.first.Namespace).Get(from.SecretKeyRef.Name)
		if err != nil {
			return "", false, unless(from.SecretKeyRef.Optional, err)
		}
		value, found := object.Data[from.SecretKeyRef.Key]
		if !found {
			return "", false, unless(from.SecretKeyRef.Optional, fmt.Errorf("secret %s has no key %s", object.Name, from.SecretKeyRef.Key))
		}
		return string(value), true, nil
	}
	return "", false, fmt.Errorf("this source of a value is not known here")
}

// unless drops the error if the reference is optional and what it names is not there.
func unless(optional *bool, err error) error {
	if optional != nil && *optional && (apierrors.IsNotFound(err) || apierrors.ReasonForError(err) == "") {
		return nil
	}
	return err
}

// field is the downward API, for env and volumes.
func (p *podRun) field(path string) (string, error) {
	switch path {
	case "status.podIP", "status.podIPs":
		return p.ip, nil
	case "status.hostIP", "status.hostIPs":
		return p.agent.nodes[p.first.Spec.NodeName], nil
	case "spec.nodeName":
		return p.first.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.first.Spec.ServiceAccountName, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fieldpath.ExtractFieldPathAsString(p.pod, path)
}
