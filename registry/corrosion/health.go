package corrosion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// health is what the agent says of itself. It says nothing, by status 503, when
// it has applied nothing of another agent's in the last two minutes, be it cut
// off, alone, or in a cluster in which nothing has happened.
type health struct {
	Gaps    uint64  `json:"gaps"`       // versions that it knows to exist and lacks
	Members int     `json:"members"`    // other agents that it sees
	Lag     float64 `json:"p99_lag"`    // seconds from a commit elsewhere to its own, at most 10
	Queue   uint64  `json:"queue_size"` // changes that it has yet to apply
}

// maxHealth bounds the answer.
const maxHealth = 64 << 10

// health asks for it; nil: the agent says nothing.
func (a *agent) health(ctx context.Context, timeout time.Duration) (*health, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := a.do(ctx, http.MethodGet, "/v1/health", "", timeout)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusServiceUnavailable {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Response *health `json:"response"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxHealth)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the answer of /v1/health: %w", err)
	}
	return answer.Response, nil
}
