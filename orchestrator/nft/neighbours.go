package nft

import (
	"errors"
	"net"
	"time"

	"github.com/mdlayher/netlink"
)

// How long the machine believes that it knows the hardware address of a
// container on the services bridge. The engine gives the address of one that is
// gone to the next, whose hardware address is another there; by default packets
// would go to the old one for some 35 s.
const (
	believed  = 100 * time.Millisecond // since the last proof
	doubted   = time.Millisecond       // before it is asked for again
	retried   = 100 * time.Millisecond // when nobody answers
	broadcast = 3                      // times; never to the old hardware address alone
)

// Of rtnetlink, neighbour tables (linux/neighbour.h, linux/rtnetlink.h).
const (
	setNeighbourTable  = 67 // RTM_SETNEIGHTBL
	familyIPv4         = 2  // AF_INET
	attributeName      = 1  // NDTA_NAME
	attributeSettings  = 6  // NDTA_PARMS
	settingInterface   = 1  // NDTPA_IFINDEX
	settingReachable   = 4  // NDTPA_BASE_REACHABLE_TIME, ms
	settingRetransmit  = 5  // NDTPA_RETRANS_TIME, ms
	settingDelay       = 7  // NDTPA_DELAY_PROBE_TIME, ms
	settingUnicast     = 10 // NDTPA_UCAST_PROBES
	settingRebroadcast = 17 // NDTPA_MCAST_REPROBES
)

// forgetSoon has the machine forget soon which hardware addresses are behind a
// bridge. One that is not there yet is left: it has no neighbours.
func forgetSoon(bridge string) error {
	device, err := net.InterfaceByName(bridge)
	if err != nil {
		return nil
	}
	attributes := netlink.NewAttributeEncoder()
	attributes.String(attributeName, "arp_cache")
	attributes.Nested(attributeSettings, func(settings *netlink.AttributeEncoder) error {
		settings.Uint32(settingInterface, uint32(device.Index))
		settings.Uint64(settingReachable, uint64(believed.Milliseconds()))
		settings.Uint64(settingRetransmit, uint64(retried.Milliseconds()))
		settings.Uint64(settingDelay, uint64(doubted.Milliseconds()))
		settings.Uint32(settingUnicast, 0)
		settings.Uint32(settingRebroadcast, broadcast)
		return nil
	})
	data, err := attributes.Encode()
	if err != nil {
		return err
	}
	const route = 0 // NETLINK_ROUTE
	conn, err := netlink.Dial(route, nil)
	if err != nil {
		return err
	}
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: setNeighbourTable, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{familyIPv4, 0, 0, 0}, data...), // struct ndtmsg
	})
	return errors.Join(err, conn.Close())
}
