package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
)

// config is what `kiln serve` can be told, by flag, by environment (KILN_ and
// the key in capitals) or by file, in this order of precedence.
type config struct {
	Listen              string
	Data                string
	NATS                string
	NATSListen          string
	NATSStore           orchestrator.Bytes
	NATSCredentialsFile string
	DockerHost          string
	Network             string
	Isolation           string
	Runtime             string
	Builder             string
	Builds              int
	BuildTimeout        time.Duration
	BuildMemory         orchestrator.Bytes
	BuildPids           int
	BuildDisk           orchestrator.Bytes
	ExtraCAFile         string
	Freezer             string
	CgroupRoot          string
	Cells               int
	CellsMax            int
	Memory              orchestrator.Bytes
	InsecureNoAuth      bool
	SecretsKeyFile      string
	TLSListen           string
	TLSCert             string
	TLSKey              string
	ACMEDomains         string
	ACMEEmail           string
	ACMEDirectory       string
	ACMECAFile          string
	AsyncShare          int
	AsyncDepth          int
	AsyncResults        time.Duration
	CallbackPrivate     string
	LogLevel            slog.Level
	LogFormat           string
}

// Values of config.Isolation.
const (
	isolationAuto   = "auto"
	isolationStrict = "strict"
	isolationOff    = "off"
)

func defaultConfig() config {
	return config{
		Listen:          "127.0.0.1:8080",
		Data:            defaultData(),
		Network:         "kiln",
		NATSStore:       jetstream.DefaultEventsStore,
		Isolation:       isolationAuto,
		Builder:         "auto",
		Builds:          2,
		BuildTimeout:    build.DefaultTimeout,
		BuildPids:       2048,
		BuildDisk:       build.DefaultDisk,
		Freezer:         "auto",
		Cells:           2,
		CellsMax:        8,
		LogFormat:       "text",
		AsyncShare:      int(events.DefaultShare * 100),
		AsyncDepth:      events.DefaultDepth,
		AsyncResults:    events.DefaultResultTTL,
		CallbackPrivate: "refuse",
	}
}

// defaultData is where a service keeps its state for root, and where a user's
// programs do (XDG) for others.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/kiln"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "kiln")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "kiln-data"
	}
	return filepath.Join(home, ".local", "share", "kiln")
}

// setting is one key of the configuration, in all the ways it can be given.
type setting struct {
	key   string // in the file; the flag has '-' for '_', the variable is KILN_KEY
	usage string
	set   func(*config, string) error
	show  func(config) string
	bare  string // what the flag stands for without a value; "" = it needs one
}

func (s setting) flag() string     { return strings.ReplaceAll(s.key, "_", "-") }
func (s setting) variable() string { return "KILN_" + strings.ToUpper(s.key) }

// settings is the one list of keys; flags, environment, file and the reference
// in docs/configuration.md follow it.
func settings() []setting {
	return []setting{
		text("listen", "address to serve HTTP on", func(c *config) *string { return &c.Listen }),
		text("data", "folder that keeps all state", func(c *config) *string { return &c.Data }),
		text("nats", "URL of an external NATS cluster with JetStream; empty = embedded", func(c *config) *string { return &c.NATS }),
		text("nats_listen", "address where others may use the embedded NATS server; empty = none", func(c *config) *string { return &c.NATSListen }),
		text("nats_credentials_file", "file with USER:PASSWORD of those; empty = nats-credentials in the data folder", func(c *config) *string { return &c.NATSCredentialsFile }),
		size("nats_store", "disk for streams of others on the embedded NATS server", func(c *config) *orchestrator.Bytes { return &c.NATSStore }),
		text("docker_host", "the Docker engine's address; empty = DOCKER_HOST or the local socket", func(c *config) *string { return &c.DockerHost }),
		text("network", "Docker network of the instances, made when absent", func(c *config) *string { return &c.Network }),
		choice("isolation", "rules that wall instances off from this machine: auto, strict (no start without) or off",
			func(c *config) *string { return &c.Isolation }, isolationAuto, isolationStrict, isolationOff),
		text("runtime", "the engine's runtime for functions that name none, such as runsc; empty = the engine's default", func(c *config) *string { return &c.Runtime }),
		choice("builder", "image builder: auto, buildkit or classic", func(c *config) *string { return &c.Builder }, "auto", "buildkit", "classic"),
		number("builds", "builds at once", 1, 64, func(c *config) *int { return &c.Builds }),
		duration("build_timeout", "longest time for one build", func(c *config) *time.Duration { return &c.BuildTimeout }),
		size("build_memory", "memory of one step of a build; 0 = half of the machine's divided by builds, 1 GiB at least", func(c *config) *orchestrator.Bytes { return &c.BuildMemory }),
		number("build_pids", "processes of one step of a build", 16, 1<<20, func(c *config) *int { return &c.BuildPids }),
		size("build_disk", "how much the engine's disk may lose during a build before it is ended", func(c *config) *orchestrator.Bytes { return &c.BuildDisk }),
		text("extra_ca_file", "PEM file of CAs that build steps trust besides their own", func(c *config) *string { return &c.ExtraCAFile }),
		choice("freezer", "how idle instances are frozen: auto, cgroup or engine", func(c *config) *string { return &c.Freezer }, "auto", "cgroup", "engine"),
		text("cgroup_root", "where the cgroup file system is mounted; empty = /sys/fs/cgroup", func(c *config) *string { return &c.CgroupRoot }),
		number("cells", "waiting cells per template in use; 0 = none", 0, 64, func(c *config) *int { return &c.Cells }),
		number("cells_max", "waiting cells per template at most", 0, 256, func(c *config) *int { return &c.CellsMax }),
		text("secrets_key_file", "file with the key of secrets; empty = secrets.key in the data folder", func(c *config) *string { return &c.SecretsKeyFile }),
		size("memory", "memory for all instances; 0 = 80 % of the machine's", func(c *config) *orchestrator.Bytes { return &c.Memory }),
		number("async_share", "share of a function's slots that asynchronous calls use, in percent", 1, 100, func(c *config) *int { return &c.AsyncShare }),
		number("async_depth", "asynchronous calls of one function that may wait", 1, maxAsyncDepth, func(c *config) *int { return &c.AsyncDepth }),
		duration("async_results", "how long results of asynchronous calls are kept", func(c *config) *time.Duration { return &c.AsyncResults }),
		choice("callback_private", "callbacks to this machine and private networks: refuse or allow", func(c *config) *string { return &c.CallbackPrivate }, "refuse", "allow"),
		toggle("insecure_no_auth", "let everybody do everything, without tokens; on loopback only", func(c *config) *bool { return &c.InsecureNoAuth }),
		text("tls_listen", "address to serve HTTPS on, beside listen; empty = none", func(c *config) *string { return &c.TLSListen }),
		text("tls_cert", "PEM file of the certificate chain; read again when it changes", func(c *config) *string { return &c.TLSCert }),
		text("tls_key", "PEM file of the certificate's key", func(c *config) *string { return &c.TLSKey }),
		text("acme_domains", "domains to get certificates for by ACME, separated by commas, instead of tls_cert", func(c *config) *string { return &c.ACMEDomains }),
		text("acme_email", "address that the ACME authority may write to", func(c *config) *string { return &c.ACMEEmail }),
		text("acme_directory", "URL of the ACME authority's directory; empty = Let's Encrypt", func(c *config) *string { return &c.ACMEDirectory }),
		text("acme_ca_file", "PEM file of CAs that vouch for the ACME authority; empty = the machine's", func(c *config) *string { return &c.ACMECAFile }),
		{key: "log_level", usage: "debug, info, warn or error", set: func(c *config, v string) error { return c.LogLevel.UnmarshalText([]byte(v)) },
			show: func(c config) string { return strings.ToLower(c.LogLevel.String()) }},
		choice("log_format", "text or json", func(c *config) *string { return &c.LogFormat }, "text", "json"),
	}
}

func text(key, usage string, field func(*config) *string) setting {
	return setting{key: key, usage: usage,
		set:  func(c *config, v string) error { *field(c) = v; return nil },
		show: func(c config) string { return *field(&c) }}
}

func choice(key, usage string, field func(*config) *string, allowed ...string) setting {
	s := text(key, usage, field)
	s.set = func(c *config, v string) error {
		for _, a := range allowed {
			if v == a {
				*field(c) = v
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", v, strings.Join(allowed, ", "))
	}
	return s
}

func number(key, usage string, low, high int, field func(*config) *int) setting {
	return setting{key: key, usage: usage,
		set: func(c *config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < low || n > high {
				return fmt.Errorf("%q is not a number from %d to %d", v, low, high)
			}
			*field(c) = n
			return nil
		},
		show: func(c config) string { return strconv.Itoa(*field(&c)) }}
}

func size(key, usage string, field func(*config) *orchestrator.Bytes) setting {
	return setting{key: key, usage: usage,
		set: func(c *config, v string) (err error) {
			*field(c), err = orchestrator.ParseBytes(v)
			return err
		},
		show: func(c config) string { return field(&c).String() }}
}

func duration(key, usage string, field func(*config) *time.Duration) setting {
	return setting{key: key, usage: usage,
		set: func(c *config, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				return fmt.Errorf("%q is not a duration such as 15m", v)
			}
			*field(c) = d
			return nil
		},
		show: func(c config) string { return field(&c).String() }}
}

func toggle(key, usage string, field func(*config) *bool) setting {
	return setting{key: key, usage: usage, bare: "true",
		set: func(c *config, v string) error {
			on, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			*field(c) = on
			return nil
		},
		show: func(c config) string { return strconv.FormatBool(*field(&c)) }}
}

// maxAsyncDepth keeps what waits in memory below a gigabyte.
const maxAsyncDepth = 1_000_000

// maxConfigFile bounds what is read of a configuration file.
const maxConfigFile = 64 << 10

// loadConfig lays file, environment and flags (by key, those given) over the
// defaults. An error names the key and where it was given.
func loadConfig(file string, getenv func(string) string, flags map[string]string) (config, error) {
	c := defaultConfig()
	given, err := readConfigFile(file)
	if err != nil {
		return c, err
	}
	for _, s := range settings() {
		origin, value, ok := "", "", false
		if v, in := given[s.key]; in {
			origin, value, ok = file+": "+s.key, v, true
		}
		delete(given, s.key)
		if v := getenv(s.variable()); v != "" {
			origin, value, ok = s.variable(), v, true
		}
		if v, in := flags[s.key]; in {
			origin, value, ok = "--"+s.flag(), v, true
		}
		if !ok {
			continue
		}
		if err := s.set(&c, value); err != nil {
			return c, fmt.Errorf("%s: %w", origin, err)
		}
	}
	if len(given) > 0 {
		var unknown []string
		for key := range given {
			unknown = append(unknown, key)
		}
		sort.Strings(unknown)
		return c, fmt.Errorf("%s: unknown key %s; see docs/configuration.md", file, strings.Join(unknown, ", "))
	}
	return c, nil
}

// readConfigFile returns the file's keys with their values as text.
func readConfigFile(file string) (map[string]string, error) {
	given := map[string]string{}
	if file == "" {
		return given, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if info.Size() > maxConfigFile || info.Mode()&fs.ModeType != 0 {
		return nil, fmt.Errorf("configuration file %s: %w", file, errors.New("not a regular file of at most 64 KiB"))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	var raw map[string]any
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for key, value := range raw {
		switch value.(type) {
		case map[string]any, []any:
			return nil, fmt.Errorf("%s: %s: a single value is expected", file, key)
		case nil:
			given[key] = ""
		default:
			given[key] = fmt.Sprint(value)
		}
	}
	return given, nil
}
