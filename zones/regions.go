package zones

import (
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"dnsd/registry"
)

// Regions tells where regions are. Immutable.
type Regions struct {
	at map[string]point // by code, in lower case
}

// point is a place on the globe, in radians.
type point struct{ lat, lon float64 }

//go:embed regions.csv
var builtIn string

// BuiltInRegions returns the table that dnsd comes with: the platform's regions,
// retired ones included, since machines may still carry their codes.
func BuiltInRegions() *Regions {
	r, err := (&Regions{}).Extend(strings.NewReader(builtIn))
	if err != nil {
		panic("zones: regions.csv: " + err.Error()) // a test reads it
	}
	return r
}

// regionColumns are those that a table must have, in any order and among others.
var regionColumns = []string{"code", "latitude", "longitude"}

// Extend returns r with the regions of a CSV table added; a region that is there
// already takes the table's coordinates. The first line names the columns, of
// which code, latitude and longitude (in degrees) are needed and others are
// ignored; lines that begin with # are comments. The error names every mistake
// with its line, and then there is no table at all.
func (r *Regions) Extend(table io.Reader) (*Regions, error) {
	c := csv.NewReader(table)
	c.Comment, c.TrimLeadingSpace, c.FieldsPerRecord = '#', true, -1
	header, err := c.Read()
	if err == io.EOF {
		return nil, fmt.Errorf("the table is empty: its first line must be %q", strings.Join(regionColumns, ","))
	} else if err != nil {
		return nil, csvError(err)
	}
	var column [3]int
	for i, want := range regionColumns {
		if column[i] = slices.Index(header, want); column[i] < 0 {
			return nil, fmt.Errorf("line 1: there is no column %q: the first line must name the columns %s",
				want, strings.Join(regionColumns, ", "))
		}
	}
	at, lines := maps.Clone(r.at), map[string]int{}
	if at == nil {
		at = map[string]point{}
	}
	var errs []error
	for {
		record, err := c.Read()
		if err == io.EOF {
			break
		} else if err != nil {
			errs = append(errs, csvError(err))
			break // after a broken quote nothing can be read for sure
		}
		line, _ := c.FieldPos(0)
		code, p, err := readRegion(record, column)
		if first, twice := lines[code]; err == nil && twice {
			err = fmt.Errorf("region %s stands in line %d already", code, first)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", line, err))
			continue
		}
		at[code], lines[code] = p, line
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Regions{at: at}, nil
}

// csvError says in dnsd's words where CSV itself is broken.
func csvError(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("line %d, column %d: %w", parse.Line, parse.Column, parse.Err)
	}
	return err
}

// readRegion reads one line of a table; column says where the fields are.
func readRegion(record []string, column [3]int) (code string, p point, err error) {
	if want := max(column[0], column[1], column[2]) + 1; len(record) < want {
		return "", p, fmt.Errorf("there are %d fields, want at least %d", len(record), want)
	}
	code = registry.Lower(record[column[0]])
	if code == "" || len(code) > 63 || strings.ContainsAny(code, " .") {
		return "", p, fmt.Errorf("%q is not a region code: want one such as fra", record[column[0]])
	}
	lat, errLat := degrees(regionColumns[1], record[column[1]], 90)
	lon, errLon := degrees(regionColumns[2], record[column[2]], 180)
	if errLat != nil {
		return "", p, errLat
	}
	return code, point{lat, lon}, errLon
}

// degrees reads a coordinate and returns it in radians.
func degrees(what, s string, limit float64) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= -limit && v <= limit) { // written so that NaN fails
		return 0, fmt.Errorf("%s %q is not a number of degrees between %g and %g", what, s, -limit, limit)
	}
	return v * math.Pi / 180, nil
}
