package orchestrator

import (
	"context"
	"errors"
	"fmt"
)

// record stores a function and keeps it in memory. A write that has begun is not
// called off, as nobody would know whether it happened; when its outcome is not
// known all the same, what the store has tells. So memory never stays behind the
// store, which would refuse every later change of the function.
func (s *Service) record(ctx context.Context, f Function) (Function, error) {
	if err := ctx.Err(); err != nil {
		return Function{}, err
	}
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	written, err := s.Store.PutFunction(write, f)
	if err != nil {
		stored, lookErr := s.look(ctx, f.Name)
		switch {
		case lookErr != nil:
		case stored.Live == f.Live && stored.Revision == f.Revision && stored.UpdatedAt.Equal(f.UpdatedAt):
			written, err = stored, nil
		default:
			s.keep(stored)
		}
	}
	if err != nil {
		return Function{}, fmt.Errorf("record function %s: %w", f.Name, err)
	}
	s.keep(written)
	return written, nil
}

// erase removes a function's record, as certainly as record writes it.
func (s *Service) erase(ctx context.Context, f Function) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	err := s.Store.DeleteFunction(write, f.Name, f.Version)
	if err == nil || errors.Is(err, ErrNotFound) {
		return nil
	}
	stored, lookErr := s.look(ctx, f.Name)
	switch {
	case errors.Is(lookErr, ErrNotFound):
		return nil
	case lookErr == nil:
		s.keep(stored)
	}
	return fmt.Errorf("remove function %s: %w", f.Name, err)
}

// look reads what the store has, whether or not ctx has ended.
func (s *Service) look(ctx context.Context, name string) (Function, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return s.Store.Function(ctx, name)
}
