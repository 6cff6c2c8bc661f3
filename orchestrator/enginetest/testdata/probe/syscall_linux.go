package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call with arguments that would do, were it allowed.
func call(name string) error {
	text := func(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s + "\x00"))) }
	var number, a, b, c uintptr
	switch name {
	case "unshare":
		number, a = unix.SYS_UNSHARE, unix.CLONE_NEWUSER
	case "keyctl":
		number, a = unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID
		b = ^uintptr(2) // the session's keyring
	case "add_key":
		number, a, b, c = unix.SYS_ADD_KEY, text("user"), text("kiln"), text("x")
	case "mount":
		number, a, b, c = unix.SYS_MOUNT, text("none"), text("/tmp"), text("tmpfs")
	case "bpf":
		number = unix.SYS_BPF
	case "userfaultfd":
		number = unix.SYS_USERFAULTFD
	case "perf_event_open":
		number = unix.SYS_PERF_EVENT_OPEN
	case "open_by_handle_at":
		number = unix.SYS_OPEN_BY_HANDLE_AT
	case "init_module":
		number = unix.SYS_INIT_MODULE
	case "getpid":
		number = unix.SYS_GETPID
	default:
		return fmt.Errorf("unknown call %s", name)
	}
	if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}
