package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// row is what came of one fault.
type row struct {
	fault      string
	times      int
	from       mark // in the load
	until      mark
	changes    int64 // deploys and removals that were acknowledged
	sent       int64
	allowed    int
	notAllowed []string
	lost       []string
	twice      []string
	left       []string
	back       time.Duration // until all was well again, at most
	violations []string
}

// kept says whether every promise was.
func (r row) kept() bool {
	return len(r.notAllowed)+len(r.lost)+len(r.twice)+len(r.left)+len(r.violations) == 0
}

// printTable prints what is promised and what came of it.
func printTable(out io.Writer, rows []row, w *world) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "fault\ttimes\tchanges\tcalls sent\tfailed, allowed\tnot allowed\tlost\tsent twice\tleft over\tbroken\tback after\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t\n", r.fault, r.times, r.changes, r.sent, r.allowed,
			len(r.notAllowed), len(r.lost), len(r.twice), len(r.left), len(r.violations), r.back.Round(10*time.Millisecond))
	}
	table.Flush()
	fmt.Fprintf(out, "seed %d; the gateway answered at most %s after its start\n", w.o.seed, w.slowestStart.Round(time.Millisecond))
	for _, r := range rows {
		for _, finding := range []struct {
			what string
			all  []string
		}{
			{"failed without excuse", r.notAllowed}, {"lost", r.lost}, {"sent twice", r.twice},
			{"left over", r.left}, {"broken", r.violations},
		} {
			for i, text := range finding.all {
				if i == shown {
					fmt.Fprintf(out, "%s: %s: %d more\n", r.fault, finding.what, len(finding.all)-shown)
					break
				}
				fmt.Fprintf(out, "%s: %s: %s\n", r.fault, finding.what, text)
			}
		}
	}
}
