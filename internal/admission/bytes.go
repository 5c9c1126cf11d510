package admission

import (
	"math"
	"sync"
)

// Budget bounds the bytes of requests and answers that a server keeps: while it reads them,
// works on them, and waits for a client to read. Each holder, such as a grant, has a share.
// The shares shrink as the bytes left become few, and the last quarter is for holders with
// small requests, so greedy ones leave room for others. It is safe for concurrent use.
type Budget struct {
	share, total int64

	mu      sync.Mutex
	used    int64
	holders map[string]int64
}

// requestCost is what a request costs besides its body and its answer. It bounds how many
// requests of one holder there are at once.
const requestCost = 64 << 10

// smallHolding is how much a holder may have of the last quarter.
const smallHolding = 4 * requestCost

// NewBudget returns a budget of total bytes, of which each holder has at most share.
func NewBudget(share, total int64) *Budget {
	return &Budget{share: share, total: total, holders: map[string]int64{}}
}

// Load is what one request takes of a [Budget]. It is not safe for concurrent use. A nil
// Load belongs to no budget.
type Load struct {
	budget *Budget
	holder string
	bytes  int64
}

// Open begins a request of a holder, or fails with [ErrFull]. If holder is empty, it is not
// known whose request it is, and it shares with no other. The caller closes the Load when
// the client has the answer. A nil Budget has no bound.
func (b *Budget) Open(holder string) (*Load, error) {
	if b == nil {
		return nil, nil
	}
	l := &Load{budget: b, holder: holder}
	return l, l.Take(requestCost)
}

// Take takes n bytes more, or fails with [ErrFull] and takes nothing.
func (l *Load) Take(n int64) error {
	if l == nil {
		return nil
	}
	b := l.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	held := l.bytes
	if l.holder != "" {
		held = b.holders[l.holder]
	}
	switch {
	case n > math.MaxInt64/2:
	case held+n <= min(b.share, (b.total/4*3-b.used)/4), held+n <= min(b.share, smallHolding) && b.used+n <= b.total:
		l.add(n)
		return nil
	}
	return ErrFull
}

// Reset gives the bytes of the body back when it is no longer needed.
func (l *Load) Reset() {
	if l != nil {
		l.give(l.bytes - requestCost)
	}
}

// Close gives all bytes back.
func (l *Load) Close() {
	if l != nil {
		l.give(l.bytes)
	}
}

func (l *Load) give(n int64) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	l.add(-n)
}

func (l *Load) add(n int64) {
	b := l.budget
	l.bytes += n
	b.used += n
	if l.holder == "" {
		return
	}
	if held := b.holders[l.holder] + n; held > 0 {
		b.holders[l.holder] = held
	} else {
		delete(b.holders, l.holder)
	}
}

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
