package enginetest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// fakeImage is an image and what its containers run. It is guarded by Fake.mu;
// program is set once.
type fakeImage struct {
	orchestrator.Image
	program Program
}

// addImage stores an image. Call with mu held.
func (f *Fake) addImage(image orchestrator.Image, program Program, refs ...string) *fakeImage {
	image.ID, image.CreatedAt, image.Tags = "sha256:"+f.id(), time.Now(), nil
	stored := &fakeImage{Image: image, program: program}
	f.images[image.ID] = stored
	for _, ref := range refs {
		f.tag(stored, ref)
	}
	return stored
}

// tag moves a reference to an image. Call with mu held.
func (f *Fake) tag(image *fakeImage, ref string) {
	ref = reference(ref)
	if old := f.images[f.refs[ref]]; old != nil {
		old.Tags = slices.DeleteFunc(old.Tags, func(tag string) bool { return tag == ref })
	}
	f.refs[ref] = image.ID
	image.Tags = append(image.Tags, ref)
}

// find returns an image by reference or id. Call with mu held.
func (f *Fake) find(ref string) (*fakeImage, error) {
	if image := f.images[ref]; image != nil {
		return image, nil
	}
	if image := f.images[f.refs[reference(ref)]]; image != nil {
		return image, nil
	}
	return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "image-not-found", "there is no image %s", ref)
}

// Image returns one image.
func (f *Fake) Image(ctx context.Context, ref string) (orchestrator.Image, error) {
	if err := f.begin(ctx, OpImage); err != nil {
		return orchestrator.Image{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	image, err := f.find(ref)
	if err != nil {
		return orchestrator.Image{}, err
	}
	return image.report(), nil
}

// report is a copy that the caller may keep.
func (i *fakeImage) report() orchestrator.Image {
	r := i.Image
	r.Tags, r.Labels, r.Ports = slices.Clone(r.Tags), maps.Clone(r.Labels), slices.Clone(r.Ports)
	return r
}

// Images returns those that carry all of labels.
func (f *Fake) Images(ctx context.Context, labels map[string]string) ([]orchestrator.Image, error) {
	if err := f.begin(ctx, OpImages); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []orchestrator.Image
	for _, image := range f.images {
		if hasAll(image.Labels, labels) {
			list = append(list, image.report())
		}
	}
	slices.SortFunc(list, func(a, b orchestrator.Image) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// Pull finds what AddPullable put there, and nothing else.
func (f *Fake) Pull(ctx context.Context, ref string, progress func(orchestrator.BuildEvent)) error {
	if err := f.begin(ctx, OpPull); err != nil {
		return err
	}
	f.mu.Lock()
	program := f.pullable[reference(ref)]
	if program != nil {
		f.addImage(orchestrator.Image{Size: orchestrator.MiB}, program, ref)
	}
	f.mu.Unlock()
	if program == nil {
		return orchestrator.Errorf(orchestrator.ErrNotFound, "image-pull-failed", "there is no image %s in its registry", ref)
	}
	if progress != nil {
		event := orchestrator.BuildEvent{Kind: orchestrator.BuildStep, Time: time.Now(), Step: "pull-" + ref, Name: "[pull] " + ref, State: orchestrator.StepStarted}
		progress(event)
		event.State = orchestrator.StepDone
		progress(event)
	}
	return nil
}

// Tag gives an image another reference.
func (f *Fake) Tag(ctx context.Context, ref, as string) error {
	if err := f.begin(ctx, OpTag); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	image, err := f.find(ref)
	if err != nil {
		return err
	}
	f.tag(image, as)
	return nil
}

// RemoveImage removes a reference, and the image with its last one.
func (f *Fake) RemoveImage(ctx context.Context, ref string) error {
	if err := f.begin(ctx, OpRemoveImage); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	image, err := f.find(ref)
	if err != nil {
		return nil
	}
	if ref != image.ID && len(image.Tags) > 1 {
		f.untag(image, reference(ref))
		return nil
	}
	for _, c := range f.containers {
		if c.image == image.ID {
			return orchestrator.Errorf(orchestrator.ErrConflict, "engine-conflict", "the image %s is in use by the container %s", ref, c.config.Name)
		}
	}
	if ref == image.ID && len(image.Tags) > 1 {
		return orchestrator.Errorf(orchestrator.ErrConflict, "engine-conflict", "the image %s has %d references", ref, len(image.Tags))
	}
	for _, tag := range slices.Clone(image.Tags) {
		f.untag(image, tag)
	}
	delete(f.images, image.ID)
	return nil
}

// untag removes a reference. Call with mu held.
func (f *Fake) untag(image *fakeImage, ref string) {
	delete(f.refs, ref)
	image.Tags = slices.DeleteFunc(image.Tags, func(tag string) bool { return tag == ref })
}
