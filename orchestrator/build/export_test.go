package build

// References returns the images that a Dockerfile needs, in order.
func References(dockerfile string, args map[string]string) (images []string) {
	for _, r := range references([]byte(dockerfile), args) {
		images = append(images, r.image)
	}
	return images
}

// Rewrite replaces images in a Dockerfile.
func Rewrite(dockerfile string, by map[string]string) string {
	return string(rewrite([]byte(dockerfile), references([]byte(dockerfile), nil), by))
}

// WithoutSyntax leaves out a syntax line.
func WithoutSyntax(dockerfile string) (string, string) {
	plain, frontend := withoutSyntax([]byte(dockerfile))
	return string(plain), frontend
}

// Refuse says why a Dockerfile is not built.
var Refuse = refuse
