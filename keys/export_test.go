package keys

import (
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// Simulation is the schedule over rows without real keys.
type Simulation struct {
	schedule
	rows  []row
	named map[string]bool // the ids of all keys that ever existed
}

func NewSimulation(rotation, ttl time.Duration) *Simulation {
	return &Simulation{schedule: schedule{rotation: rotation, tokenTTL: ttl}, named: map[string]bool{}}
}

func (s *Simulation) MaxAge() time.Duration { return s.maxAge() }

// View is the rows that a replica has read.
type View []row

func (s *Simulation) Read() View { return slices.Clone(s.rows) }

// Update lets a replica whose clock says now carry out the plan.
func (s *Simulation) Update(now time.Time) (created []string) {
	p := s.plan(s.rows, now)
	for _, n := range p.create {
		if !slices.ContainsFunc(s.rows, func(r row) bool { return r.period == n }) {
			id := fmt.Sprint("key", n)
			for again := 'a'; s.named[id]; again++ { // in the place of a key that left its period
				id = fmt.Sprint("key", n, string(again))
			}
			s.named[id] = true
			s.rows = append(s.rows, row{period: n, id: id, sealed: sql.NullString{String: "x", Valid: true}, startsAt: s.start(n), publishedAt: now})
			created = append(created, id)
		}
	}
	for i, r := range s.rows {
		if slices.Contains(p.erase, r.period) {
			s.rows[i].sealed = sql.NullString{}
		}
	}
	s.rows = slices.DeleteFunc(s.rows, func(r row) bool { return slices.Contains(p.remove, r.period) })
	s.sort()
	return created
}

func (s *Simulation) sort() {
	slices.SortFunc(s.rows, func(a, b row) int { return a.startsAt.Compare(b.startsAt) })
}

// Rotate does what [Rotate] does.
func (s *Simulation) Rotate(now time.Time) (id string, signs time.Time, err error) {
	next, signs, err := s.bringForward(s.rows, now)
	if err != nil {
		return "", signs, err
	}
	id = s.rows[next].id
	if signs.Before(s.signsFrom(s.rows[next])) {
		s.move(id, signs, now)
	}
	return id, signs, nil
}

func (s *Simulation) move(id string, startsAt, now time.Time) {
	for i := range s.rows {
		if s.rows[i].id == id {
			s.rows[i].period, s.rows[i].startsAt = -now.UnixMilli(), startsAt
		}
	}
	s.sort()
}

// Withdraw does what [Withdraw] does.
func (s *Simulation) Withdraw(id string, now time.Time) (signs string, err error) {
	i := slices.IndexFunc(s.rows, func(r row) bool { return r.id == id })
	c, err := s.withdraw(s.rows, i, now)
	if err != nil {
		return "", err
	}
	s.rows = slices.Delete(slices.Clone(s.rows), i, i+1)
	for j, r := range s.rows {
		if slices.ContainsFunc(c.erase, func(e row) bool { return e.id == r.id }) {
			s.rows[j].sealed = sql.NullString{}
		}
	}
	if c.early {
		s.move(c.signs.id, now, now)
	}
	return c.signs.id, nil
}

// Signing is the id of the key with which a replica that read v signs at now.
func (s *Simulation) Signing(v View, now time.Time) string {
	if i := s.signing(v, now); i >= 0 {
		return v[i].id
	}
	return ""
}

// Private returns the ids of the keys in v that have a private half.
func (v View) Private() (ids []string) {
	for _, r := range v {
		if r.sealed.Valid {
			ids = append(ids, r.id)
		}
	}
	return ids
}

func (s *Simulation) Published(v View, now time.Time) (ids []string) {
	for i, r := range v {
		if until := s.publishedUntil(v, i); until.IsZero() || now.Before(until) {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// ParseFile reads a key file's content.
func ParseFile(name string, text []byte) (private bool, err error) {
	k, err := parseFile(name, text)
	return k.private != nil, err
}

// With is the same store, read with another rotation.
func (s *Simulation) With(rotation time.Duration) *Simulation {
	return &Simulation{schedule: schedule{rotation: rotation, tokenTTL: s.tokenTTL}, rows: s.rows, named: s.named}
}
