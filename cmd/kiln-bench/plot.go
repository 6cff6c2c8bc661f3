package main

import (
	"fmt"
	"html/template"
	"strings"
)

// bar is one bar of a plot.
type bar struct {
	label string
	value float64
	kind  string // CSS class: direct, nginx, kiln or plain
}

// plot draws a report's section as SVG bars, longest full width.
func plot(r Report, what string) template.HTML {
	var bars []bar
	unit := ""
	switch {
	case what == "rate" && r.Warm != nil:
		unit = "/s"
		for _, row := range r.Warm.Closed {
			for _, way := range wayNames {
				bars = append(bars, bar{fmt.Sprintf("%d callers, %d B, %s", row.Callers, row.Body, way), row.Targets[way].Rate, way})
			}
		}
	case what == "tail" && r.Warm != nil:
		unit = " µs"
		for _, row := range r.Warm.Open {
			for _, way := range wayNames {
				bars = append(bars, bar{fmt.Sprintf("%d callers at %.0f/s, %s", row.Callers, row.Rate, way), row.Targets[way].P99, way})
			}
		}
	case what == "random" && r.Warm != nil:
		unit = " µs"
		for _, row := range r.Warm.Random.Rows() {
			bars = append(bars,
				bar{"one, " + row.Way, row.One.ProxyCPU, row.Way}, bar{"many, " + row.Way, row.Many.ProxyCPU, row.Way},
				bar{"one, function behind " + row.Way, row.One.FunctionCPU, "plain"}, bar{"many, functions behind " + row.Way, row.Many.FunctionCPU, "plain"})
		}
	case what == "cold" && r.Cold != nil:
		unit = " ms"
		for _, row := range r.Cold.Single {
			kind := "kiln"
			if strings.HasPrefix(row.Way, "docker") {
				kind = "direct"
			}
			bars = append(bars, bar{row.Template + ", " + row.Way, row.P50, kind})
		}
	case what == "memory" && r.Memory != nil:
		unit = " MiB"
		for _, row := range r.Memory.Gateway {
			bars = append(bars, bar{fmt.Sprintf("gateway, %d functions", row.Functions), row.MiB, "kiln"})
		}
		for _, row := range r.Memory.Instances {
			bars = append(bars, bar{"idle instance, " + row.Template, row.MiB, "plain"})
		}
	case strings.HasPrefix(what, "sim-") && r.Sim != nil:
		return draw(simBars(*r.Sim, what))
	}
	return draw(bars, unit)
}

// Sizes of a plot in pixels.
const (
	barHeight  = 18
	barGap     = 5
	labelWidth = 260
	plotWidth  = 900
	valueWidth = 110
)

func draw(bars []bar, unit string) template.HTML {
	var longest float64
	for _, b := range bars {
		longest = max(longest, b.value)
	}
	if longest == 0 {
		return ""
	}
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg viewBox="0 0 %d %d" role="img">`, plotWidth, len(bars)*(barHeight+barGap))
	for i, b := range bars {
		y := i * (barHeight + barGap)
		width := b.value / longest * (plotWidth - labelWidth - valueWidth)
		fmt.Fprintf(&svg, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/><text x="%.1f" y="%d">%s</text>`,
			labelWidth-8, y+14, template.HTMLEscapeString(b.label), b.kind, labelWidth, y, width, barHeight,
			float64(labelWidth)+width+6, y+14, template.HTMLEscapeString(fmt.Sprintf("%.4g%s", b.value, unit)))
	}
	svg.WriteString(`</svg>`)
	return template.HTML(svg.String())
}
