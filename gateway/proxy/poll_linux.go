package proxy

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a socket can be ready for, as epoll tells it. Hang-up and error make it
// readable: the read says which.
const (
	readyRead  = unix.EPOLLIN | unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLRDHUP
	readyWrite = unix.EPOLLOUT | unix.EPOLLHUP | unix.EPOLLERR
	readyGone  = unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLRDHUP
)

// edgeTriggered is EPOLLET, whose constant does not fit the field's type.
const edgeTriggered = 1 << 31

// interest is what every socket is registered for, once: with edge triggering
// nothing is changed for the next request, and a call costs no epoll_ctl.
const interest = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | edgeTriggered

// poller is an epoll instance and the eventfd that wakes it.
type poller struct {
	epoll, wake int
	hold        bool // a wait may keep the runtime's processor: there are others
	events      [256]unix.EpollEvent
}

func newPoller(hold bool) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN | edgeTriggered, Fd: -1})
	}
	if err != nil {
		unix.Close(epoll)
		if wake >= 0 {
			unix.Close(wake)
		}
		return nil, err
	}
	return &poller{epoll: epoll, wake: wake, hold: hold}, nil
}

func (p *poller) close() {
	unix.Close(p.epoll)
	unix.Close(p.wake)
}

// interrupt makes a wait return.
func (p *poller) interrupt() {
	one := [8]byte{0: 1}
	_, _ = unix.Write(p.wake, one[:]) // full = it is awake already
}

// add registers a socket under a slot and its generation.
func (p *poller) add(fd int, slot, generation uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: interest, Fd: int32(slot), Pad: int32(generation)})
}

func (p *poller) remove(fd int) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil)
}

// holdTime is how long a wait keeps the runtime's processor. Calls under way are
// answered within it, and a loop without any lets go of it soon. More would only
// keep others from a processor that nobody uses.
const holdTime = 2 // milliseconds

// wait returns events, after at most timeout milliseconds; negative is for ever.
//
// It waits for a short time without telling the scheduler. Telling it is cheap,
// but what it does then is not: it hands the processor on, wakes a thread to look
// for work that is not there, and has the loop queue for a processor when its
// event has come. A processor that is needed meanwhile, for goroutines that others
// cannot run or to stop the world, is asked for by a signal, which ends the wait.
func (p *poller) wait(timeout int) []unix.EpollEvent {
	n := 0
	if p.hold {
		n = p.look(uint(min(uint(timeout), holdTime)))
	}
	if n == 0 && (timeout < 0 || timeout > holdTime || !p.hold) {
		var err error
		if n, err = unix.EpollWait(p.epoll, p.events[:], timeout); err != nil {
			n = 0 // EINTR; all else is a bug that the next call shows as well
		}
	}
	return p.events[:n]
}

// look waits for at most so many milliseconds and keeps the processor.
func (p *poller) look(timeout uint) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0 // EINTR
	}
	return int(n)
}

// The sockets are not blocking, so that a read or write takes microseconds and
// the scheduler need not hear of it.

// errAgain is EAGAIN: nothing to read, or no room to write.
var errAgain error = unix.EAGAIN

func readSocket(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, sysError(errno)
		}
	}
}

// writeSocket writes as much as there is room for. MSG_NOSIGNAL: Go ignores
// SIGPIPE on sockets only for writes of package net.
func writeSocket(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, sysError(errno)
		}
	}
}

// silent reports whether an idle connection is open and has nothing to read.
func silent(fd int) bool {
	var b [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno == unix.EAGAIN
}

// sysError avoids the allocation of making an errno an error.
func sysError(errno unix.Errno) error {
	if errno == unix.EAGAIN {
		return errAgain
	}
	return errno
}

// dialSocket begins to connect to an IPv4 or IPv6 address.
func dialSocket(to unix.Sockaddr) (fd int, err error) {
	family := unix.AF_INET
	if _, ok := to.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err = noDelay(fd); err == nil {
		if err = unix.Connect(fd, to); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func noDelay(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// socketError returns what became of a connect.
func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}
