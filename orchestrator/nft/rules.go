package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	chainInput   = "input"   // to the machine itself
	chainForward = "forward" // through the machine
	// priority is just before the filters of others: what they accept comes here
	// first.
	priority = -10
	portDNS  = 53
)

// metadata are the addresses at which clouds tell a machine its secrets, and
// with them everything else that is only for the link: 169.254.169.254 for most,
// Amazon's by IPv6, Alibaba's, Azure's.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("168.63.129.16/32"),
}

// wallOff makes the rules about the machine and the way out. In words:
//
//	input    from one of the bridges: answers pass, and IPv6's neighbour
//	         discovery; names may be asked for and the gateway's port reached
//	         where the mode has a network; the rest is dropped
//	forward  from one of the bridges: nothing without a network; services stay
//	         on their bridge; nothing goes to a bridge of Kiln's; names may be
//	         asked for at any address, for some clouds serve them at that of
//	         their metadata; the metadata is dropped. From the bridge of builds
//	         nothing goes to Kiln's bridges or, names excepted, to the metadata
func wallOff(conn *nftables.Conn, table *nftables.Table, walls orchestrator.Walls) error {
	bridges := &nftables.Set{Table: table, Name: "bridges", KeyType: nftables.TypeIFName}
	elements := []nftables.SetElement{{Key: ifname(walls.Internet)}, {Key: ifname(walls.Services)}, {Key: ifname(walls.None)}}
	if err := conn.AddSet(bridges, elements); err != nil {
		return err
	}
	input := base(conn, table, chainInput, nftables.ChainHookInput)
	add := func(exprs ...[]expr.Any) { rule(conn, table, input, exprs...) }
	add(outside(bridges), accept)
	add(established, accept)
	add(neighbourDiscovery, accept)
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		add(from(walls.Internet), port(protocol, portDNS), accept)
	}
	if walls.Port != 0 {
		add(from(walls.Internet), port(unix.IPPROTO_TCP, walls.Port), accept)
		add(from(walls.Services), port(unix.IPPROTO_TCP, walls.Port), accept)
	}
	add(drop)

	forward := base(conn, table, chainForward, nftables.ChainHookForward)
	add = func(exprs ...[]expr.Any) { rule(conn, table, forward, exprs...) }
	if walls.Builds != "" {
		add(from(walls.Builds), toAny(bridges), drop)
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			add(from(walls.Builds), port(protocol, portDNS), accept)
		}
		for _, prefix := range metadata {
			add(from(walls.Builds), destination(prefix), drop)
		}
	}
	add(outside(bridges), accept)
	add(from(walls.None), drop)
	add(from(walls.Services), to(walls.Services), accept) // the table of the family bridge has what remains to say
	add(from(walls.Services), drop)
	add(toAny(bridges), drop)
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		add(port(protocol, portDNS), accept)
	}
	for _, prefix := range metadata {
		add(destination(prefix), drop)
	}
	return nil
}

// partition makes the rules between containers on one bridge: it sees frames
// that never become a packet of the machine's. Where only instances are, nothing
// goes from one address to another; services are told from instances by their
// hardware addresses.
func partition(conn *nftables.Conn, table *nftables.Table, walls orchestrator.Walls) {
	forward := base(conn, table, chainForward, nftables.ChainHookForward)
	for _, subnet := range walls.Alone {
		rule(conn, table, forward, addressed(subnet, sourceIPv4), addressed(subnet, destinationIPv4), drop)
	}
	const sourceAt, destinationAt = 6, 0
	rule(conn, table, forward, kilnAddress(sourceAt), kilnAddress(destinationAt), drop)
}

func base(conn *nftables.Conn, table *nftables.Table, name string, hook *nftables.ChainHook) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return conn.AddChain(&nftables.Chain{
		Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
		Priority: nftables.ChainPriorityRef(priority), Policy: &policy,
	})
}

func rule(conn *nftables.Conn, table *nftables.Table, chain *nftables.Chain, exprs ...[]expr.Any) {
	var all []expr.Any
	for _, e := range exprs {
		all = append(all, e...)
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
}

// register is where each test puts what it compares.
const register = 1

var (
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}

	established = []expr.Any{
		&expr.Ct{Register: register, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}

	// neighbourDiscovery is ICMPv6 of the types 133 to 136 (RFC 4861, section 4).
	neighbourDiscovery = append(layer4(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: register, FromData: []byte{133}, ToData: []byte{136}},
	)
)

// ifname is an interface's name as the kernel compares it.
func ifname(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

func from(bridge string) []expr.Any { return device(expr.MetaKeyIIFNAME, bridge) }
func to(bridge string) []expr.Any   { return device(expr.MetaKeyOIFNAME, bridge) }

func device(key expr.MetaKey, bridge string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: ifname(bridge)},
	}
}

func outside(bridges *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: bridges.Name, SetID: bridges.ID, Invert: true},
	}
}

func toAny(bridges *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: bridges.Name, SetID: bridges.ID},
	}
}

func layer4(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protocol}},
	}
}

func port(protocol byte, number uint16) []expr.Any {
	const destinationAt = 2
	return append(layer4(protocol),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: destinationAt, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(number)},
	)
}

// Where addresses are in the network header.
const (
	sourceIPv4, destinationIPv4 = 12, 16
	destinationIPv6             = 24
)

// destination matches packets to addresses of a prefix.
func destination(prefix netip.Prefix) []expr.Any {
	family, at := byte(unix.NFPROTO_IPV4), uint32(destinationIPv4)
	if prefix.Addr().Is6() {
		family, at = unix.NFPROTO_IPV6, destinationIPv6
	}
	return append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{family}},
	}, within(prefix, at)...)
}

// addressed matches frames with IPv4 whose address at an offset is of a prefix.
func addressed(prefix netip.Prefix, at uint32) []expr.Any {
	return append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)},
	}, within(prefix, at)...)
}

// within compares the address at an offset of the network header with a prefix.
func within(prefix netip.Prefix, at uint32) []expr.Any {
	address := prefix.Masked().Addr().AsSlice()
	mask := make([]byte, len(address))
	for bit := range prefix.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	size := uint32(len(address))
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: address},
	}
}

// kilnAddress matches frames with one of Kiln's hardware addresses at an offset.
func kilnAddress(at uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: at, Len: uint32(len(orchestrator.MACPrefix))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: orchestrator.MACPrefix[:]},
	}
}
