//go:build race

package forward

// raceEnabled: the race detector's own memory makes heap measurements useless.
const raceEnabled = true
