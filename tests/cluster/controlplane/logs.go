// What containers write: one file a start, DIR/logs/NAMESPACE/POD/CONTAINER.N.log, kept after the pod's end; and `kubectl logs`, by the kubelet's API.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func (a *agent) logFile(pod *corev1.Pod, container string, restarts int32) string {
	return filepath.Join(a.dir, "logs", pod.Namespace, pod.Name, fmt.Sprintf("%s.%d.log", container, restarts))
}

func (a *agent) openLog(pod *corev1.Pod, container string, restarts int32) (*os.File, error) {
	path := a.logFile(pod, container, restarts)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err == nil {
		err = log.Chmod(0o666) // a program may open /dev/stdout anew, as whatever user
	}
	return log, err
}

// serveLogs returns the port of a node's kubelet API.
func serveLogs(a *agent, address string) (int, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "kubelet.crt"), filepath.Join(a.dir, "kubelet.key"))
	if err != nil {
		return 0, err
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(address, "10250"), &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return 0, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLog)
	go func() { _ = http.Serve(listener, mux) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (a *agent) serveLog(w http.ResponseWriter, r *http.Request) {
	pattern := filepath.Join(a.dir, "logs", r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")+".")
	newest := -1
	for {
		if _, err := os.Stat(fmt.Sprintf("%s%d.log", pattern, newest+1)); err != nil {
			break
		}
		newest++
	}
	query := r.URL.Query()
	if query.Get("previous") == "true" {
		newest--
	}
	file, err := os.Open(fmt.Sprintf("%s%d.log", pattern, newest))
	if err != nil {
		http.Error(w, "no log", http.StatusNotFound)
		return
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if tail, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		text = lastLines(text, tail)
	}
	flush := http.NewResponseController(w)
	_, _ = w.Write(text)
	for query.Get("follow") == "true" {
		_ = flush.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := io.Copy(w, file); err != nil {
			return
		}
	}
}

func lastLines(text []byte, count int) []byte {
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; count > 0; count-- {
		at = bytes.LastIndexByte(text[:at], '\n')
		if at < 0 {
			return text
		}
	}
	if at == len(text) || count < 0 {
		return nil
	}
	return text[at+1:]
}
