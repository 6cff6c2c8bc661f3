package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
)

// nginx is Debian's nginx as a reverse proxy on loopback with keep-alive
// connections to its upstreams: the yardstick of the warm path.
type nginx struct {
	addr    string
	process *exec.Cmd
}

// nginxConfig gives nginx what a careful operator would: all cores, kept
// connections both ways, no access log, buffers that hold a small answer, and the
// headers that tell a function who called, which Kiln sends too.
const nginxConfig = `%[5]sworker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log warn;
worker_rlimit_nofile 65536;
events { worker_connections 16384; }
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  proxy_http_version 1.1;
%[3]s  server {
    listen %[2]s backlog=4096;
%[4]s  }
}
`

// nginxUpstream and nginxLocation are one function's part of the configuration.
const (
	nginxUpstream = "  upstream %[1]s { server %[2]s; keepalive 256; keepalive_requests 1000000000; }\n"
	nginxLocation = `    location = /invoke/%[1]s {
      proxy_pass http://%[1]s/;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header %[2]s %[3]s;
    }
`
)

// upstream is an instance that others than its gateway call.
type upstream struct {
	addr  string // "IP:port"
	token string // that its runtime wants to be shown
}

// startNginx runs nginx in front of functions, by name, under the paths that Kiln
// has for them.
func startNginx(dir string, functions map[string]upstream) (*nginx, error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx" // not on every user's PATH
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("nginx is not installed; run: apt-get install nginx-light")
	}
	dir, err = os.MkdirTemp(dir, "nginx-")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	var upstreams, locations strings.Builder
	for name, u := range functions {
		fmt.Fprintf(&upstreams, nginxUpstream, name, u.addr)
		fmt.Fprintf(&locations, nginxLocation, name, api.HeaderInstanceToken, u.token)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // as another one, workers could not write into the benchmark's folder
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, addr, &upstreams, &locations, user), 0o600); err != nil { // it holds instances' tokens
		return nil, err
	}
	cmd := exec.Command(binary, "-c", config, "-p", dir, "-g", "daemon off;")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	n := &nginx{addr: addr, process: cmd}
	if err := waitFor("nginx", 10*time.Second, func() error { return dialOnce(addr) }); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

// processes are the master and its workers.
func (n *nginx) processes() []int { return family(n.process.Process.Pid) }

// stop ends nginx and waits for it.
func (n *nginx) stop() error {
	if err := n.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return n.process.Wait()
}

// nginxVersion says which nginx it is, for the report.
func nginxVersion() string {
	out, err := exec.Command("/usr/sbin/nginx", "-v").CombinedOutput()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "nginx version:"))
}
