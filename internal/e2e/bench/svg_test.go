package bench

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// point is a measurement: so many requests a second at some size.
type point struct{ x, y float64 }

// line is a named row of points, in the order of x.
type line struct {
	name   string
	points []point
}

// chart draws rates against a size. The sizes are on a logarithmic axis, because they grow
// by factors. The drawing has no background and follows the reader's colour scheme.
type chart struct {
	title, x string // what is drawn, and the name of the horizontal axis
	lines    []line
}

// Measures of a drawing, in pixels.
const (
	chartWidth, chartHeight = 640, 320
	chartLeft, chartRight   = 64, 24
	chartTop, chartBottom   = 48, 48
)

const chartStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 14px; font-weight: 600 }
.axis { stroke: #8c959f } .grid { stroke: #8c959f; stroke-opacity: .25 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 }
polyline { fill: none !important; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #d1d7e0 } .c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #f0883e; fill: #f0883e }
}
</style>
`

// svg returns the drawing. The same chart gives the same bytes.
func (c chart) svg() string {
	least, most, top := c.extent()
	across := func(x float64) float64 {
		share := 0.5
		if most > least {
			share = math.Log(x/least) / math.Log(most/least)
		}
		return chartLeft + share*(chartWidth-chartLeft-chartRight)
	}
	up := func(y float64) float64 {
		return chartHeight - chartBottom - y/top*(chartHeight-chartTop-chartBottom)
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n"+chartStyle, chartWidth, chartHeight, escaped(c.title))
	text := func(x, y float64, attributes, content string) {
		fmt.Fprintf(&out, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, attributes, escaped(content))
	}
	text(chartLeft, 20, ` class="title"`, c.title)
	for i := range 5 {
		y := top * float64(i) / 4
		fmt.Fprintf(&out, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+"\n", chartLeft, chartWidth-chartRight, up(y), up(y))
		text(chartLeft-8, up(y)+4, ` text-anchor="end"`, short(y))
	}
	fmt.Fprintf(&out, `<line class="axis" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+"\n", chartLeft, chartWidth-chartRight, up(0), up(0))
	for _, x := range c.sizes() {
		text(across(x), up(0)+18, ` text-anchor="middle"`, short(x))
	}
	text((chartLeft+chartWidth-chartRight)/2, chartHeight-8, ` text-anchor="middle"`, c.x)
	for i, l := range c.lines {
		var path []string
		for _, p := range l.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", across(p.x), up(p.y)))
			fmt.Fprintf(&out, `<circle class="c%d" cx="%.1f" cy="%.1f" r="3"/>`+"\n", i, across(p.x), up(p.y))
		}
		fmt.Fprintf(&out, `<polyline class="c%d" points="%s"/>`+"\n", i, strings.Join(path, " "))
		fmt.Fprintf(&out, `<rect class="c%d" x="%d" y="30" width="10" height="4"/>`+"\n", i, chartLeft+i*220)
		text(float64(chartLeft+i*220+16), 37, "", l.name)
	}
	return out.String() + "</svg>\n"
}

// extent returns the ends of the horizontal axis and the top of the vertical one.
func (c chart) extent() (least, most, top float64) {
	least = math.Inf(1)
	for _, l := range c.lines {
		for _, p := range l.points {
			least, most, top = min(least, p.x), max(most, p.x), max(top, p.y)
		}
	}
	step := math.Pow(10, math.Floor(math.Log10(max(top, 1))))
	return least, most, math.Ceil(max(top, 1)/step) * step
}

// sizes returns all values of the horizontal axis, each once.
func (c chart) sizes() (all []float64) {
	for _, l := range c.lines {
		for _, p := range l.points {
			all = append(all, p.x)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// short formats a number for an axis.
func short(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3g M", n/1e6)
	case n >= 1000:
		return fmt.Sprintf("%.3g k", n/1000)
	}
	return fmt.Sprintf("%.3g", n)
}

func escaped(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder returns no error
	return out.String()
}

// A chart is well-formed XML with every point inside of its frame, and is drawn the same
// again.
func TestChart(t *testing.T) {
	c := chart{title: "Refreshes & <more>", x: "connections", lines: []line{
		{"SQLite", []point{{1, 900}, {16, 5000}, {64, 9318}}}, {"PostgreSQL", []point{{1, 0}, {64, 6000}}},
	}}
	drawing := c.svg()
	if drawing != c.svg() {
		t.Error("a second drawing is different")
	}
	d := xml.NewDecoder(strings.NewReader(drawing))
	circles := 0
	for {
		token, err := d.Token()
		if token == nil {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "circle" {
			continue
		}
		circles++
		var x, y float64
		for _, a := range start.Attr {
			switch a.Name.Local {
			case "cx":
				_, err = fmt.Sscan(a.Value, &x)
			case "cy":
				_, err = fmt.Sscan(a.Value, &y)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if x < chartLeft || x > chartWidth-chartRight || y < chartTop || y > chartHeight-chartBottom {
			t.Errorf("a point is at %g,%g", x, y)
		}
	}
	if circles != 5 {
		t.Errorf("%d points, want 5", circles)
	}
	for _, want := range []string{"Refreshes &amp; &lt;more>", ">10 k<", ">64<", "prefers-color-scheme: dark"} {
		if !strings.Contains(strings.ReplaceAll(drawing, "&gt;", ">"), want) {
			t.Errorf("no %s in\n%s", want, drawing)
		}
	}
}
