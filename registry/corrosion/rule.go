package corrosion

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// The agent announces a row when a column was written that the query names, in
// its list or in a condition, or when the row was deleted. An insert writes every
// column outside the key. So a query that names none of those is told of no new
// row, unless the table has only key columns.

// schemaSQL reads the columns of all tables, and which are of the key.
const schemaSQL = `SELECT m.name, c.name, c.pk FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'`

// schema holds the columns of each table, in lower case, and whether each belongs
// to the key.
type schema map[string]map[string]bool

// Check asks the agent what is wrong with the queries beyond what New can see,
// and returns a sentence for each mistake. The error is that of asking the agent.
func (s *Source) Check(ctx context.Context) (mistakes []string, err error) {
	a, err := s.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
	}
	defer a.close()
	tables, err := a.schema(ctx)
	if err != nil {
		return nil, fmt.Errorf("corrosion agent at %s: reading its schema: %w", s.cfg.Addr, err)
	}
	for _, sub := range s.subs {
		err := a.events(ctx, "SELECT * FROM ("+sub.query+") LIMIT 0", s.proveTimeout, func(ev *event, _ *longLine) error {
			if ev == nil || ev.Columns == nil {
				return nil
			}
			_, err := sub.shape.bind(ev.Columns)
			return err
		})
		var status *statusError
		var column *columnError
		switch {
		case errors.As(err, &column):
			mistakes = append(mistakes, column.Error())
		case errors.As(err, &status) && status.code == http.StatusBadRequest:
			mistakes = append(mistakes, fmt.Sprintf("the agent refuses the query for %s: %s", sub.shape.table, status.text))
		case err != nil:
			return mistakes, fmt.Errorf("corrosion agent at %s: %w", s.cfg.Addr, err)
		}
		mistakes = append(mistakes, tables.deaf(sub)...)
	}
	return mistakes, nil
}

// checkRule counts the queries that break the rule of announcements and logs each
// once. An agent whose schema cannot be read is followed all the same.
func (s *Source) checkRule(ctx context.Context, a *agent) {
	tables, err := a.schema(ctx)
	if err != nil {
		s.log.Debug("the corrosion agent's schema cannot be read", "err", err)
		return
	}
	n := 0
	for _, sub := range s.subs {
		mistakes := tables.deaf(sub)
		n += len(mistakes)
		for _, m := range mistakes {
			if !s.warned[m] {
				s.warned[m] = true
				s.log.Warn(m)
			}
		}
	}
	s.deaf.Store(int64(n))
}

func (a *agent) schema(ctx context.Context) (schema, error) {
	s := schema{}
	err := a.query(ctx, schemaSQL, 3, func(cells []cell) error {
		table := strings.ToLower(string(cells[0]))
		if s[table] == nil {
			s[table] = map[string]bool{}
		}
		s[table][strings.ToLower(string(cells[1]))] = cells[2] != "0"
		return nil
	})
	return s, err
}

// deaf returns a sentence for each table of a query of whose new rows it would not
// be told, with the columns that it could name.
func (s schema) deaf(sub *subscription) (mistakes []string) {
	named := names(sub.query)
	for _, table := range named {
		var others []string
		for column, key := range s[table] {
			if !key {
				others = append(others, column)
			}
		}
		if len(others) == 0 || slices.ContainsFunc(others, func(c string) bool { return slices.Contains(named, c) }) {
			continue
		}
		slices.Sort(others)
		mistakes = append(mistakes, fmt.Sprintf("the query for %s names no column of the table %s but its key, so that the agent announces no new row of it: select one of %s as well",
			sub.shape.table, table, strings.Join(others, ", ")))
	}
	return mistakes
}

// wordSQL matches what a statement may name a column by: an identifier, plain or
// quoted in one of three ways, is in one of its groups. Comments and texts are in
// none. The end of a quote may be missing.
var wordSQL = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?(?:\*/|$)|'[^']*'?` +
	`|"([^"]*)"?|` + "`([^`]*)`?" + `|\[([^]]*)|([A-Za-z_\x{80}-\x{10FFFF}][0-9A-Za-z_\x{80}-\x{10FFFF}]*)`)

// names returns the identifiers of a statement once each, in lower case, without
// the names that it gives to its output.
func names(sql string) (found []string) {
	before := ""
	for _, groups := range wordSQL.FindAllStringSubmatch(sql, -1) {
		word := strings.ToLower(strings.Join(groups[1:], ""))
		if word == "" {
			continue
		}
		if before != "as" && !slices.Contains(found, word) {
			found = append(found, word)
		}
		before = word
	}
	return found
}
