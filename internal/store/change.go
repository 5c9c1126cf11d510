package store

import (
	"context"
	"errors"
)

// Change is a statement that changes one row if its conditions hold, and otherwise nothing.
//
// In a shared store, where a statement is a round trip, the changes of calls that wait are
// made by one statement, Many. Its placeholders are arrays: $1 has the first argument of each
// call, and so on. It numbers the calls (unnest ... WITH ORDINALITY) and returns the numbers
// of those whose change it has made, one call for each row at most.
type Change struct {
	One  string // the statement, with the placeholders $1, $2, ...
	Many string // the statement for many calls
	Args []any  // of One; each is an int64 or a string
}

// Change makes a change durable, as [Store.Write] does, and reports whether it was made. If
// not, otherwise runs in its place, like a function of Write. It has to read the row: in the
// meantime another transaction may have changed it.
func (s *Store) Change(ctx context.Context, c Change, otherwise func(Tx) error) (made bool, err error) {
	r := &request{change: c}
	r.fn = func(tx Tx) error {
		result, err := tx.Exec(c.One, c.Args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if r.made = n > 0; r.made || err != nil {
			return err
		}
		return otherwise(tx)
	}
	queue := s.queue
	if s.options.engine.shared() {
		queue = s.changes
	}
	err = s.await(ctx, queue, r)
	return r.made, err
}

// changeLoop makes changes until ctx ends, and then the rest one by one. There is one
// statement at a time: the calls that come meanwhile share the next one.
func (s *Store) changeLoop(ctx context.Context, w writer) {
	g := &gatherer{queue: s.changes, mode: grouped}
	for {
		select {
		case r := <-s.changes:
			if r.start() {
				s.makeChanges(w, g, r)
			}
		case <-ctx.Done():
			s.commitRest(w, s.changes)
			s.commitRest(w, s.queue) // what makeChanges put there when the writers had ended
			return
		}
	}
}

// makeChanges makes the changes of first and of the other waiting requests with the same
// statement, and answers them. A request whose change was not made runs in a transaction like
// any other. So do all if the statement fails: one of them is bad, or its row is locked.
func (s *Store) makeChanges(w writer, g *gatherer, first *request) {
	group := []*request{first}
	for r := g.next(1); r != nil; r = g.next(len(group)) {
		if r.change.Many != first.change.Many {
			s.leave(w, r)
			continue
		}
		group = append(group, r)
	}
	made, err := w.change(first.by, group)
	g.committed(len(group))
	if errors.Is(err, errLost) {
		s.answer(w, err, group...)
		return
	}
	for i, r := range group {
		if err == nil && made[i] {
			r.made = true
			s.answer(w, nil, r)
		} else {
			s.leave(w, r)
		}
	}
}

// leave leaves a request to the writers.
func (s *Store) leave(w writer, r *request) {
	r.state.Store(waiting)
	select {
	case s.queue <- r:
	default:
		s.answer(w, errFull, r)
	}
}
