package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// breach carries out a line of a script that goes for a limit:
//
//	allocate N    uses N bytes of memory
//	fill PATH N   writes a file of N bytes
//	flood N       writes N bytes to stdout, in lines
//	long N        the same without a line's end
//	fork N        starts N processes that sleep, and fails when it cannot
//	bomb N        keeps N processes running, beginning anew for each that is refused
//	spin          computes without end
//	dial ADDRESS… fails when none of them accepts within dialTimeout
//	absent PATH   fails when there is such a file
//	interfaces    writes the names of the network interfaces
//	environ       writes the environment
//	cat PATH      writes a file
func (m Machine) breach(ctx context.Context, command, rest string) error {
	words := strings.Fields(rest)
	number := func() int64 {
		if len(words) == 0 {
			return 0
		}
		n, _ := strconv.ParseInt(words[len(words)-1], 10, 64)
		return n
	}
	switch command {
	case "allocate":
		m.Allocate(number())
		return nil
	case "fill":
		return fill(words[0], number())
	case "flood":
		m.flood(number())
		return nil
	case "long":
		for left := number(); left > 0; left -= int64(len(floodLine) - 1) {
			fmt.Fprint(m.Stdout, floodLine[:len(floodLine)-1])
		}
		return nil
	case "fork":
		return fork(number())
	case "bomb":
		for ctx.Err() == nil {
			_ = fork(number()) // refused or not, it goes on
		}
		return ctx.Err()
	case "spin":
		for ctx.Err() == nil {
		}
		return ctx.Err()
	case "dial":
		if len(reached(ctx, words)) == 0 {
			return fmt.Errorf("%s: no connection", rest)
		}
		return nil
	case "absent":
		if _, err := os.Lstat(rest); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there: %v", rest, err)
		}
		return nil
	case "interfaces":
		list, err := net.Interfaces()
		for _, i := range list {
			fmt.Fprintln(m.Stdout, i.Name)
		}
		return err
	case "environ":
		fmt.Fprintln(m.Stdout, strings.Join(os.Environ(), "\n"))
		return nil
	case "cat":
		data, err := os.ReadFile(rest)
		fmt.Fprintln(m.Stdout, string(data))
		return err
	}
	return fmt.Errorf("unknown line: %s %s", command, rest)
}

// block is how much is written at once.
const block = 64 << 10

// fill writes a file of n bytes.
func fill(path string, n int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	zeros := make([]byte, block)
	for left := n; left > 0 && err == nil; left -= block {
		_, err = file.Write(zeros[:min(left, block)])
	}
	return errors.Join(err, file.Close())
}

// floodLine is a line as logs have them.
var floodLine = strings.Repeat("x", 127) + "\n"

func (m Machine) flood(n int64) {
	lines := []byte(strings.Repeat(floodLine, block/len(floodLine)))
	for left := n; left > 0; left -= int64(len(lines)) {
		_, _ = m.Stdout.Write(lines[:min(left, int64(len(lines)))])
	}
}

// forkLife is how long a process of fork lives.
const forkLife = time.Minute

// fork starts n processes; those that were started live on.
func fork(n int64) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for range n {
		child := exec.Command(self, "script", "sleep "+forkLife.String())
		if err := child.Start(); err != nil {
			return err
		}
	}
	return nil
}
