// A proxy before the API server, for a client that is to be tried. It ends TLS (with the server's own certificate) and hands requests on, HTTP/1.1 and
// HTTP/2, so that it can answer wrongly as well as break connections. Orders come on a socket:
//
//	POST /cut                  all connections are reset now; the answer is how many
//	POST /gate?to=open         the ordinary state
//	POST /gate?to=stall        not one more byte either way, on old and new connections
//	POST /gate?to=refuse       new connections are reset
//	PUT  /rules                a list of rules; the first that fits a request counts
//	GET  /seen                 the requests so far, one JSON object a line
//
// A rule is {path, method, token, times, status, body, headers, delay, truncate_after, stall_after}: path is a regular expression on path and query, token
// the bearer token, times how often it holds (absent: always), delay milliseconds; the last two count bytes of the server's answer.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

type faults struct {
	gate gate

	mu          sync.Mutex
	rules       []*rule
	seen        []seen
	connections map[net.Conn]struct{}
}

type rule struct {
	Path, Method, Token       string
	Times                     *int
	Status                    int
	Body                      string
	Headers                   map[string]string
	Delay                     int
	TruncateAfter, StallAfter *int64
	path                      *regexp.Regexp
}

type seen struct {
	Time   float64 `json:"time"`
	Method string  `json:"method"`
	Path   string  `json:"path"`
	Proto  string  `json:"proto"`
	Agent  string  `json:"agent"`
	Accept string  `json:"accept"`
	Token  string  `json:"token"`
	Fault  bool    `json:"fault"`
}

func faultsMain(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("faults", flag.ExitOnError)
	dir := flags.String("dir", "", "state directory of the server")
	address := flags.String("listen", "127.0.0.1:0", "where clients connect")
	target := flags.String("target", "127.0.0.1:6443", "the API server")
	orders := flags.String("orders", "", "path of the socket for orders")
	http1 := flags.Bool("http1", false, "do not offer HTTP/2")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(*dir, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	f := &faults{connections: map[net.Conn]struct{}{}}
	f.gate.set("open")
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", *target
		},
		ModifyResponse: func(answer *http.Response) error {
			if r, ok := answer.Request.Context().Value(ruleKey{}).(*rule); ok {
				answer.Body = &brokenBody{ReadCloser: answer.Body, ctx: answer.Request.Context(), rule: r}
				if r.TruncateAfter != nil {
					answer.ContentLength = -1
					answer.Header.Del("Content-Length")
				}
			}
			return nil
		},
		// A server that is away looks like one: nothing is answered in its place.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	raw, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: f.handler(proxy), TLSConfig: &tls.Config{}}
	if *http1 {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
	}
	if err := f.serveOrders(*orders); err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	fmt.Printf("listening on port %d\n", raw.Addr().(*net.TCPAddr).Port)
	err = server.ServeTLS(&faultyListener{raw, f}, filepath.Join(*dir, "apiserver.crt"), filepath.Join(*dir, "apiserver.key"))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

type ruleKey struct{}

func (f *faults) handler(proxy http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		found := f.match(r, token)
		f.mu.Lock()
		f.seen = append(f.seen, seen{float64(time.Now().UnixMilli()) / 1000, r.Method, r.URL.RequestURI(), r.Proto, r.UserAgent(), r.Header.Get("Accept"), token, found != nil})
		f.mu.Unlock()
		if found == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		if !sleep(r.Context(), time.Duration(found.Delay)*time.Millisecond) {
			return
		}
		if found.Status == 0 {
			proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), ruleKey{}, found)))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		for name, value := range found.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(found.Status)
		_, _ = io.WriteString(w, found.Body)
	})
}

func (f *faults) match(r *http.Request, token string) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.rules {
		if !one.path.MatchString(r.URL.RequestURI()) || one.Method != "" && one.Method != r.Method || one.Token != "" && one.Token != token {
			continue
		}
		if one.Times != nil {
			if *one.Times <= 0 {
				continue
			}
			*one.Times--
		}
		return one
	}
	return nil
}

func (f *faults) serveOrders(path string) error {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cut", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, f.cut())
	})
	mux.HandleFunc("POST /gate", func(w http.ResponseWriter, r *http.Request) {
		if !f.gate.set(r.FormValue("to")) {
			http.Error(w, "to must be open, stall or refuse", http.StatusBadRequest)
		}
	})
	mux.HandleFunc("PUT /rules", func(w http.ResponseWriter, r *http.Request) {
		if err := f.setRules(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /seen", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, one := range f.seen {
			_ = json.NewEncoder(w).Encode(one)
		}
	})
	go func() { _ = http.Serve(listener, mux) }()
	return nil
}

func (f *faults) setRules(text io.Reader) error {
	var raw []struct {
		Path          string            `json:"path"`
		Method        string            `json:"method"`
		Token         string            `json:"token"`
		Times         *int              `json:"times"`
		Status        int               `json:"status"`
		Body          string            `json:"body"`
		Headers       map[string]string `json:"headers"`
		Delay         int               `json:"delay"`
		TruncateAfter *int64            `json:"truncate_after"`
		StallAfter    *int64            `json:"stall_after"`
	}
	decoder := json.NewDecoder(text)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&raw); err != nil {
		return err
	}
	var rules []*rule
	for _, one := range raw {
		path, err := regexp.Compile(one.Path)
		if err != nil {
			return err
		}
		rules = append(rules, &rule{one.Path, one.Method, one.Token, one.Times, one.Status, one.Body, one.Headers, one.Delay, one.TruncateAfter, one.StallAfter, path})
	}
	f.mu.Lock()
	f.rules = rules
	f.mu.Unlock()
	return nil
}

func (f *faults) cut() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for connection := range f.connections {
		reset(connection)
	}
	return len(f.connections)
}

func reset(connection net.Conn) {
	_ = connection.(*net.TCPConn).SetLinger(0)
	connection.Close()
}

// gate: what connections do now. Stalled ones wait for `passing` to be closed.
type gate struct {
	mu      sync.Mutex
	state   string
	passing chan struct{}
}

func (g *gate) set(state string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if state != "open" && state != "stall" && state != "refuse" {
		return false
	}
	if g.passing == nil {
		g.passing = make(chan struct{})
		close(g.passing)
	}
	if (state == "stall") != (g.state == "stall") {
		if state == "stall" {
			g.passing = make(chan struct{})
		} else if g.state == "stall" {
			close(g.passing)
		}
	}
	g.state = state
	return true
}

func (g *gate) now() (string, chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.passing
}

type faultyListener struct {
	net.Listener
	faults *faults
}

func (l *faultyListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if state, _ := l.faults.gate.now(); state == "refuse" {
			reset(connection)
			continue
		}
		l.faults.mu.Lock()
		l.faults.connections[connection] = struct{}{}
		l.faults.mu.Unlock()
		return &faultyConnection{Conn: connection, faults: l.faults, closed: make(chan struct{})}, nil
	}
}

type faultyConnection struct {
	net.Conn
	faults *faults
	once   sync.Once
	closed chan struct{}
}

func (c *faultyConnection) pass() {
	_, passing := c.faults.gate.now()
	select {
	case <-passing:
	case <-c.closed:
	}
}

func (c *faultyConnection) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	if err == nil {
		c.pass()
	}
	return n, err
}

func (c *faultyConnection) Write(from []byte) (int, error) {
	c.pass()
	return c.Conn.Write(from)
}

func (c *faultyConnection) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.faults.mu.Lock()
		delete(c.faults.connections, c.Conn)
		c.faults.mu.Unlock()
	})
	return c.Conn.Close()
}

// brokenBody ends, or never goes on, after so many bytes.
type brokenBody struct {
	io.ReadCloser
	ctx  context.Context
	rule *rule
	read int64
}

func (b *brokenBody) Read(into []byte) (int, error) {
	for _, limit := range []*int64{b.rule.TruncateAfter, b.rule.StallAfter} {
		if limit == nil {
			continue
		}
		left := *limit - b.read
		if left <= 0 {
			if limit == b.rule.StallAfter {
				<-b.ctx.Done()
			}
			return 0, io.ErrUnexpectedEOF
		}
		into = into[:min(int64(len(into)), left)]
	}
	n, err := b.ReadCloser.Read(into)
	b.read += int64(n)
	return n, err
}
