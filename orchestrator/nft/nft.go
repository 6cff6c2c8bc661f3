// Package nft keeps walls as nftables rules of the network namespace that it
// runs in. It is the only importer of the netlink library.
//
// Each owner has tables of its own, one in the family inet and one in bridge,
// with base chains before everybody else's: a packet that they drop is gone
// whatever the engine's or the administrator's own rules say, and none of those
// is touched. The rules name bridges, not addresses, so that they can be made
// before the networks and outlive them.
package nft

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/google/nftables"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	tablePrefix = "kiln-"
	// version of the rules below: walls of another are not standing.
	version = 2
	// seal begins the name of an empty chain that tells which walls these are.
	seal = "is-"
)

// Firewall is the orchestrator.Firewall of the kernel. It needs CAP_NET_ADMIN.
type Firewall struct{}

var _ orchestrator.Firewall = Firewall{}

var families = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}

// Raise puts walls up. The bridge of the default mode has to be there: else this
// is not the engine's machine, or not its network namespace.
func (Firewall) Raise(ctx context.Context, walls orchestrator.Walls) error {
	if _, err := net.InterfaceByName(walls.Internet); err != nil {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "firewall-elsewhere", "look for the bridge %s: %w", walls.Internet, err).
			WithHint("run the gateway in the network namespace of the engine's machine")
	}
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	for _, family := range families {
		table := &nftables.Table{Family: family, Name: tablePrefix + walls.Owner}
		conn.AddTable(table) // or the next would fail when there is none
		conn.DelTable(table)
		conn.AddTable(table)
		if family == nftables.TableFamilyINet {
			if err := wallOff(conn, table, walls); err != nil {
				return failed("make the rules", err)
			}
			conn.AddChain(&nftables.Chain{Name: sealOf(walls), Table: table})
			continue
		}
		partition(conn, table, walls)
	}
	if err := conn.Flush(); err != nil {
		return failed("make the rules", err)
	}
	return failed("have neighbours forgotten soon", forgetSoon(walls.Services))
}

// Standing says whether walls are up.
func (Firewall) Standing(ctx context.Context, walls orchestrator.Walls) (bool, error) {
	conn, err := connect(ctx)
	if err != nil {
		return false, err
	}
	want := map[nftables.TableFamily][]string{
		nftables.TableFamilyINet:   {chainInput, chainForward, sealOf(walls)},
		nftables.TableFamilyBridge: {chainForward},
	}
	for _, family := range families {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return false, failed("read the rules", err)
		}
		for _, name := range want[family] {
			found := false
			for _, c := range chains {
				found = found || c.Table.Name == tablePrefix+walls.Owner && c.Name == name
			}
			if !found {
				return false, nil
			}
			if strings.HasPrefix(name, seal) {
				continue
			}
			table := &nftables.Table{Family: family, Name: tablePrefix + walls.Owner}
			rules, err := conn.GetRules(table, &nftables.Chain{Name: name, Table: table})
			if err != nil {
				return false, failed("read the rules", err)
			}
			if len(rules) == 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// Raze takes walls down.
func (Firewall) Raze(ctx context.Context, owner string) error {
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	for _, family := range families {
		tables, err := conn.ListTablesOfFamily(family)
		if err != nil {
			return failed("read the rules", err)
		}
		for _, t := range tables {
			if t.Name == tablePrefix+owner || owner == "" && strings.HasPrefix(t.Name, tablePrefix) {
				conn.DelTable(t)
			}
		}
	}
	return failed("remove the rules", conn.Flush())
}

// Owners returns whose walls are up.
func (Firewall) Owners(ctx context.Context) ([]string, error) {
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, failed("read the rules", err)
	}
	var owners []string
	for _, t := range tables {
		if owner, ok := strings.CutPrefix(t.Name, tablePrefix); ok {
			owners = append(owners, owner)
		}
	}
	return owners, nil
}

// connect is quick, as all of netlink: the kernel answers while it is asked.
func connect(ctx context.Context) (*nftables.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := nftables.New()
	return conn, failed("reach the kernel's packet filter", err)
}

func failed(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "firewall-forbidden", "%s: %w", what, err).
			WithHint("run as root, or with the capability NET_ADMIN")
	}
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "firewall-unavailable", "%s: %w", what, err).
		WithHint("Kiln needs a kernel with nftables (nf_tables, families inet and bridge)")
}

// sealOf names the walls by what they are.
func sealOf(walls orchestrator.Walls) string {
	data, err := json.Marshal(walls)
	if err != nil {
		panic(fmt.Sprintf("nft: encode walls: %v", err)) // strings and a number only
	}
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%s%d-%s", seal, version, hex.EncodeToString(sum[:8]))
}
