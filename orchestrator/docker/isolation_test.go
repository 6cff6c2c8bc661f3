package docker_test

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/fence"
	"github.com/kilnfaas/kiln/orchestrator/nft"
)

// compound is an installation's networks with walls, on the real engine.
type compound struct {
	client *docker.Client
	fence  *fence.Fence
	base   string // network
	owner  string
	walled bool
}

// openCompound makes the networks; the walls need root on the engine's machine.
func openCompound(t *testing.T, port uint16) *compound {
	t.Helper()
	client := open(t, docker.Options{})
	c := &compound{client: client, owner: uuid.NewString(), walled: os.Geteuid() == 0}
	c.base = session + "-" + c.owner[:4]
	config := fence.Config{Engine: client, Owner: c.owner, Network: c.base, Port: port}
	if c.walled {
		config.Ways = []fence.Way{{Name: "netlink", Firewall: nft.Firewall{}, Every: time.Hour}}
		config.Strict = true
	}
	c.fence = fence.New(config)
	t.Cleanup(func() {
		if c.walled {
			if err := (nft.Firewall{}).Raze(context.Background(), c.owner); err != nil {
				t.Errorf("Raze: %v", err)
			}
		}
		for _, mode := range orchestrator.NetworkModes {
			err := client.API().NetworkRemove(context.Background(), orchestrator.InstanceNetwork(c.base, mode))
			if err != nil {
				t.Errorf("remove the network: %v", err)
			}
		}
	})
	if err := c.fence.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	for _, config := range orchestrator.InstanceNetworks(c.owner, c.base) {
		if _, err := c.fence.EnsureNetwork(t.Context(), config); err != nil {
			t.Fatalf("EnsureNetwork: %v", err)
		}
	}
	return c
}

// instance is the probe as an instance in a mode.
type instance struct {
	mode orchestrator.NetworkMode
	addr string
	ask  func(path string, query url.Values) (string, error)
}

func (c *compound) instance(t *testing.T, mode orchestrator.NetworkMode) instance {
	t.Helper()
	container, ask := served(t, c.client, orchestrator.ContainerConfig{
		Image: probe.require(t, c.client), Network: orchestrator.InstanceNetwork(c.base, mode), Sealed: mode != orchestrator.NetworkInternet,
		Marked: mode == orchestrator.NetworkServices,
	})
	return instance{mode, container.Addr, ask}
}

// needsWalls skips what only rules can do.
func (c *compound) needsWalls(t *testing.T) {
	if !c.walled {
		skip(t, "only root may make rules on this machine")
	}
}

// reached returns those of addresses that an instance gets a connection to.
func (i instance) reached(t *testing.T, addresses ...string) []string {
	t.Helper()
	text, err := i.ask("/dial", url.Values{"to": addresses})
	if err != nil {
		t.Fatalf("the probe does not dial: %v", err)
	}
	return append([]string{}, strings.Fields(text)...)
}

// listening serves on an address of this machine and returns the port.
func listening(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// machine returns addresses by which an instance could reach its machine: the
// bridge's and the one that the machine has for others.
func (c *compound) machine(t *testing.T, mode orchestrator.NetworkMode) []string {
	t.Helper()
	networks, err := c.client.Networks(t.Context(), map[string]string{orchestrator.LabelOwner: c.owner})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range networks {
		if n.Name == orchestrator.InstanceNetwork(c.base, mode) {
			all = append(all, n.Subnets[0].Masked().Addr().Next().String())
		}
	}
	conn, err := net.Dial("udp", "192.0.2.1:9") // sends nothing; the kernel picks the address
	if err == nil {
		all = append(all, netip.MustParseAddrPort(conn.LocalAddr().String()).Addr().String())
		conn.Close()
	}
	return all
}

// TestIsolation asks from inside two instances of each mode what they reach. The
// gateway's machine reaches all of them: else they would not count as started.
func TestIsolation(t *testing.T) {
	open, closed := listening(t, "0.0.0.0"), listening(t, "0.0.0.0")
	number, err := strconv.ParseUint(open, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	c := openCompound(t, uint16(number))
	var all []instance
	for _, mode := range orchestrator.NetworkModes {
		for range 2 {
			all = append(all, c.instance(t, mode))
		}
	}
	t.Run("EachOther", func(t *testing.T) { testEachOther(t, c, all) })
	one := []instance{all[0], all[2], all[4]}
	t.Run("Machine", func(t *testing.T) {
		c.needsWalls(t)
		testMachine(t, c, one, open, closed)
	})
	t.Run("Metadata", func(t *testing.T) {
		c.needsWalls(t)
		testMetadata(t, one)
		testBuildsReach(t, c, one)
	})
	t.Run("Names", func(t *testing.T) { testNames(t, c, one) })
}

// TestAddressesOfThoseGone: an instance that gets the address of one that is gone
// is reached at once. The machine goes on believing for some 35 s that it knows
// the hardware address behind it, as long as the bridge has another container.
func TestAddressesOfThoseGone(t *testing.T) {
	c := openCompound(t, 0)
	for _, mode := range orchestrator.NetworkModes {
		t.Run(string(mode), func(t *testing.T) {
			if mode == orchestrator.NetworkServices {
				c.needsWalls(t)
			}
			c.instance(t, mode)
			seen := map[string]bool{}
			const starts = 4
			for range starts {
				gone := c.brief(t, mode)
				seen[gone] = true
			}
			if len(seen) == starts {
				t.Error("the engine gave no address twice: nothing was tested")
			}
		})
	}
}

// reachedSoon is far below the time for which a wrong hardware address is
// believed.
const reachedSoon = 10 * time.Second

// brief starts an instance, wants a connection, ends it, and returns the address
// it had.
func (c *compound) brief(t *testing.T, mode orchestrator.NetworkMode) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	one, err := c.client.Run(ctx, orchestrator.ContainerConfig{
		Name:  session + "-" + strconv.FormatInt(time.Now().UnixNano(), 36),
		Image: probe.require(t, c.client), Network: orchestrator.InstanceNetwork(c.base, mode), Sealed: mode != orchestrator.NetworkInternet,
		Marked: mode == orchestrator.NetworkServices, Labels: owned(t), Env: map[string]string{"PORT": strconv.Itoa(orchestrator.InstancePort)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.client.Stop(context.WithoutCancel(ctx), one.ID, 0); err != nil {
			t.Error(err)
		}
	}()
	accepts(t, one.Addr)
	return one.Addr
}

// accepts waits until a container that was just started takes a connection from
// this machine.
func accepts(t *testing.T, ip string) {
	t.Helper()
	address := net.JoinHostPort(ip, strconv.Itoa(orchestrator.InstancePort))
	for end := time.Now().Add(reachedSoon); ; time.Sleep(10 * time.Millisecond) { // the kernel has no clock of ours
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: no connection within %s: %v", ip, reachedSoon, err)
		}
	}
}

// testEachOther: neither in a mode nor across.
func testEachOther(t *testing.T, c *compound, all []instance) {
	port := strconv.Itoa(orchestrator.InstancePort)
	for i, from := range all {
		self := net.JoinHostPort("127.0.0.1", port)
		targets := []string{self}
		for j, to := range all {
			if i != j && (c.walled || from.mode != orchestrator.NetworkServices) {
				targets = append(targets, net.JoinHostPort(to.addr, port))
			}
		}
		if diff := cmp.Diff([]string{self}, from.reached(t, targets...)); diff != "" {
			t.Errorf("an instance with network %s reaches (-want +got):\n%s", from.mode, diff)
		}
		if text, err := from.ask("/file", url.Values{"path": {"/proc/net/if_inet6"}}); err == nil && strings.Contains(text, "eth0") {
			t.Errorf("an instance with network %s has an IPv6 address, which nothing here tests:\n%s", from.mode, text)
		}
	}
}

// testMachine: neither the engine, were it on a TCP port, nor anything else that
// listens on all addresses; the gateway where there is a network.
func testMachine(t *testing.T, c *compound, instances []instance, open, closed string) {
	for _, from := range instances {
		want, targets := []string{}, []string{}
		for _, address := range c.machine(t, from.mode) {
			gateway := net.JoinHostPort(address, open)
			targets = append(targets, net.JoinHostPort(address, closed), gateway)
			if from.mode != orchestrator.NetworkNone {
				want = append(want, gateway)
			}
		}
		if diff := cmp.Diff(want, from.reached(t, targets...)); diff != "" {
			t.Errorf("with network %s the machine is reached at (-want +got):\n%s", from.mode, diff)
		}
		if _, err := from.ask("/file", url.Values{"path": {"/var/run/docker.sock"}}); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("network %s: the engine's socket: got %v, want no such file", from.mode, err)
		}
	}
}

// testMetadata puts a server at 169.254.169.254 behind this machine, where a
// cloud has one.
func testMetadata(t *testing.T, instances []instance) {
	const metadata, other = "169.254.169.254", "198.18.213.2" // the other is reached, so the way is there
	cloud(t, []string{metadata, other})
	for _, from := range instances {
		want := []string{}
		if from.mode == orchestrator.NetworkInternet {
			want = append(want, other+":80")
		}
		if diff := cmp.Diff(want, from.reached(t, metadata+":80", other+":80")); diff != "" {
			t.Errorf("with network %s are reached (-want +got):\n%s", from.mode, diff)
		}
	}
}

// testBuildsReach: what a step of a build gets a connection to, behind the same
// link; cloud has been called.
func testBuildsReach(t *testing.T, c *compound, instances []instance) {
	forbidden := []string{"169.254.169.254:80"}
	for _, i := range instances {
		forbidden = append(forbidden, net.JoinHostPort(i.addr, strconv.Itoa(orchestrator.InstancePort)))
	}
	for _, builder := range []docker.BuilderMode{docker.BuilderBuildKit, docker.BuilderClassic} {
		client := open(t, docker.Options{Builder: builder})
		if err := step(t, client, "", "dial 198.18.213.2:80", uuid.NewString()); err != nil {
			t.Errorf("%s: a step does not reach the outside: %v", builder, err)
		}
		if err := step(t, client, "", "dial "+strings.Join(forbidden, " "), uuid.NewString()); err == nil {
			t.Errorf("%s: a step reaches one of %q", builder, forbidden)
		}
	}
}

// step builds an image whose only step is a line of the probe's; the mark makes
// it new to caches.
func step(t *testing.T, client *docker.Client, network, line, mark string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	ref := session + "/step:" + mark
	_, err := client.Build(ctx, orchestrator.BuildRequest{
		Tags: []string{ref}, Dockerfile: "Dockerfile", Labels: owned(t), Network: network,
		Context: tarOf(map[string]string{"Dockerfile": "FROM " + probe.require(t, client) + "\nENV MARK=" + mark + "\nRUN [\"/probe\", \"script\", \"" + line + "\"]\n"}),
	})
	if err == nil {
		if err := client.RemoveImage(context.Background(), ref); err != nil {
			t.Errorf("RemoveImage: %v", err)
		}
	}
	return err
}

// testNames: sealed instances look no name up outside, and fail soon; with
// services they know the names of those.
func testNames(t *testing.T, c *compound, instances []instance) {
	service := session + "-service-" + c.owner[:4]
	runService(t, c, service)
	for _, from := range instances[1:] {
		begin := time.Now()
		if got, err := from.ask("/lookup", url.Values{"name": {"kiln-test.example"}}); err == nil {
			t.Errorf("network %s: a name of the outside has addresses: %s", from.mode, got)
		}
		if took := time.Since(begin); took > lookupPatience {
			t.Errorf("network %s: the lookup took %v", from.mode, took)
		}
		want := []string{}
		if from.mode == orchestrator.NetworkServices {
			want = append(want, service+":8080")
		}
		if diff := cmp.Diff(want, from.reached(t, service+":8080")); diff != "" {
			t.Errorf("with network %s the service is reached (-want +got):\n%s", from.mode, diff)
		}
	}
}

// lookupPatience is below the 10 s that a lookup takes by itself when nothing
// answers.
const lookupPatience = 5 * time.Second

// runService runs the probe as somebody else's container, connected to the
// services network.
func runService(t *testing.T, c *compound, name string) {
	t.Helper()
	api := c.client.API()
	created, err := api.ContainerCreate(t.Context(), &container.Config{
		Image: probe.require(t, c.client), Env: []string{"PORT=8080"}, Labels: owned(t),
	}, nil, nil, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.client.Stop(context.Background(), created.ID, 0); err != nil {
			t.Error(err)
		}
	})
	if err := api.NetworkConnect(t.Context(), orchestrator.InstanceNetwork(c.base, orchestrator.NetworkServices), created.ID, nil); err != nil {
		t.Fatal(err)
	}
	if err := api.ContainerStart(t.Context(), created.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	details, err := api.ContainerInspect(t.Context(), created.ID)
	if err != nil {
		t.Fatal(err)
	}
	network := details.NetworkSettings.Networks[orchestrator.InstanceNetwork(c.base, orchestrator.NetworkServices)]
	accepts(t, network.IPAddress)
}

// cloud makes a network namespace behind a link, with a server on port 80 of
// each address.
func cloud(t *testing.T, addresses []string) {
	t.Helper()
	name := "k" + uuid.NewString()[:6]
	run := func(command ...string) {
		t.Helper()
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	run("ip", "netns", "add", name)
	t.Cleanup(func() { run("ip", "netns", "del", name) })
	run("ip", "link", "add", name+"a", "type", "veth", "peer", "name", name+"b", "netns", name)
	run("ip", "addr", "add", "198.18.213.1/24", "dev", name+"a")
	run("ip", "link", "set", name+"a", "up")
	inside := []string{"ip", "netns", "exec", name}
	run(append(inside, "ip", "link", "set", "lo", "up")...)
	run(append(inside, "ip", "addr", "add", "198.18.213.2/24", "dev", name+"b")...)
	run(append(inside, "ip", "link", "set", name+"b", "up")...)
	run(append(inside, "ip", "route", "add", "default", "via", "198.18.213.1")...)
	for _, address := range addresses {
		if address == "198.18.213.2" {
			continue
		}
		run(append(inside, "ip", "addr", "add", address+"/32", "dev", name+"b")...)
		run("ip", "route", "add", address+"/32", "via", "198.18.213.2")
	}
	server := exec.Command("ip", append(inside[1:], filepath.Join(t.TempDir(), "probe"))...)
	build := exec.Command("go", "build", "-o", server.Args[len(server.Args)-1], "../enginetest/testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server.Env = append(os.Environ(), "PORT=80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for deadline := time.Now().Add(testTimeout); ; {
		reached := 0
		for _, address := range addresses {
			conn, err := net.DialTimeout("tcp", address+":80", time.Second)
			if err == nil {
				conn.Close()
				reached++
			}
		}
		if reached == len(addresses) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the servers of the test do not answer on this machine")
		}
	}
}

// TestNetworksHoldWithoutWalls: what the engine keeps by itself, also of a
// network that an earlier version made, and not of anybody else's.
func TestNetworksHoldWithoutWalls(t *testing.T) {
	client := open(t, docker.Options{})
	name, theirs := session+"-old", session+"-theirs"
	t.Cleanup(func() {
		for _, n := range []string{name, theirs} {
			if err := client.API().NetworkRemove(context.Background(), n); err != nil {
				t.Errorf("remove the network: %v", err)
			}
		}
	})
	old := orchestrator.NetworkConfig{Name: name, Labels: owned(t), Shared: true}
	for _, config := range []orchestrator.NetworkConfig{old, {Name: theirs, Shared: true}} {
		if _, err := client.EnsureNetwork(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: name, Labels: owned(t), Bridge: "kiln-test-net", Internal: true})
	if err != nil || got.Shared || !got.Internal || got.Bridge != "kiln-test-net" {
		t.Errorf("a network that is to be closed: got %+v, %v", got, err)
	}
	got, err = client.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: theirs, Labels: owned(t), Internal: true})
	if err != nil || got.Internal || !got.Shared {
		t.Errorf("somebody else's network: got %+v, %v; want it as it was", got, err)
	}
}
