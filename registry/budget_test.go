package registry

import "testing"

func TestBudget(t *testing.T) {
	b := NewBudget(10, nil)
	if !b.Need(10) || b.Need(11) || b.Step(1) || !b.Over() || b.Need(1) {
		t.Error("work of more steps than there are does not end the budget")
	}
	b = NewBudget(10, nil)
	for i := range 10 {
		if !b.Need(10-i) || !b.Step(1) || b.Over() {
			t.Fatalf("step %d of 10 is one too many", i+1)
		}
	}
	if b.Step(1) || !b.Over() || b.Step(1) {
		t.Error("step 11 of 10 does not end the budget")
	}
	b = NewBudget(0, nil)
	if b.Step(1) || !b.Over() {
		t.Error("a budget of none has a step")
	}
	pauses := 0
	b = NewBudget(10, func() { pauses++ })
	for i := range 10 * pauseEvery {
		if !b.Need(1<<30) || !b.Step(1) || b.Over() {
			t.Fatalf("a budget with a pause ends at step %d", i+1)
		}
		if pauses != b.Steps()/pauseEvery {
			t.Fatalf("%d pauses in %d steps", pauses, b.Steps())
		}
	}
}
