package corrosion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// health is what the agent reports of itself.
type health struct {
	Gaps    uint64  `json:"gaps"`       // versions that it knows to exist and lacks
	Members int     `json:"members"`    // other agents that it sees
	Lag     float64 `json:"p99_lag"`    // seconds from a commit elsewhere to its own, at most 10
	Queue   uint64  `json:"queue_size"` // changes that it has yet to apply
}

// maxHealth bounds the answer, in bytes.
const maxHealth = 64 << 10

// health asks for the agent's health. It returns nil if the agent answers 503, as
// it does when it has applied nothing of another agent's in the last two minutes.
func (a *agent) health(ctx context.Context) (*health, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := a.do(ctx, http.MethodGet, "/v1/health", "", a.timeout)
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
