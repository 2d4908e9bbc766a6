// Upstream's own merge code behind lines of JSON: what scripts/differential.py compares our patches with.
//
// A line asks for one operation on objects without apiVersion, kind and name; the answer is one line.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sort"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/merge"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// The type of differential.py's SCHEMA, in structured-merge-diff's own language.
const schema = `types:
- name: str
  scalar: string
- name: tags
  map: {elementType: {scalar: string}}
- name: sel
  map: {elementType: {scalar: string}, elementRelationship: atomic}
- name: deep
  map: {fields: [{name: x, type: {scalar: numeric}}, {name: "y", type: {scalar: numeric}}]}
- name: opts
  map: {fields: [{name: mode, type: {scalar: string}}, {name: deep, type: {namedType: deep}}]}
- name: limits
  map: {fields: [{name: cpu, type: {scalar: string}}, {name: memory, type: {scalar: string}}, {name: opts, type: {namedType: opts}}]}
- name: envv
  map: {fields: [{name: name, type: {scalar: string}}, {name: value, type: {scalar: string}}]}
- name: port
  map: {fields: [{name: port, type: {scalar: numeric}}, {name: protocol, type: {scalar: string}, default: TCP}, {name: name, type: {scalar: string}}]}
- name: container
  map:
    fields:
    - {name: name, type: {scalar: string}}
    - {name: image, type: {scalar: string}}
    - {name: args, type: {list: {elementType: {scalar: string}, elementRelationship: atomic}}}
    - {name: env, type: {list: {elementType: {namedType: envv}, elementRelationship: associative, keys: [name]}}}
    - {name: ports, type: {list: {elementType: {namedType: port}, elementRelationship: associative, keys: [port, protocol]}}}
- name: __untyped_atomic_
  scalar: untyped
  list: {elementType: {namedType: __untyped_atomic_}, elementRelationship: atomic}
  map: {elementType: {namedType: __untyped_atomic_}, elementRelationship: atomic}
- name: __untyped_deduced_
  scalar: untyped
  list: {elementType: {namedType: __untyped_atomic_}, elementRelationship: atomic}
  map: {elementType: {namedType: __untyped_deduced_}, elementRelationship: separable}
- name: spec
  map:
    fields:
    - {name: replicas, type: {scalar: numeric}}
    - {name: paused, type: {scalar: boolean}}
    - {name: note, type: {scalar: string}}
    - {name: tags, type: {namedType: tags}}
    - {name: sel, type: {namedType: sel}}
    - {name: limits, type: {namedType: limits}}
    - {name: containers, type: {list: {elementType: {namedType: container}, elementRelationship: associative, keys: [name]}}}
    - {name: finals, type: {list: {elementType: {scalar: string}, elementRelationship: associative}}}
    - {name: free, type: {map: {elementType: {namedType: __untyped_deduced_}}}}
- name: meta
  map: {fields: [{name: labels, type: {namedType: tags}}]}
- name: obj
  map: {fields: [{name: metadata, type: {namedType: meta}}, {name: spec, type: {namedType: spec}}]}
`

type oneVersion struct{}

func (oneVersion) Convert(o *typed.TypedValue, _ fieldpath.APIVersion) (*typed.TypedValue, error) {
	return o, nil
}
func (oneVersion) IsMissingVersionError(error) bool { return false }

type manager struct {
	Applied bool            `json:"applied"`
	Fields  json.RawMessage `json:"fields"`
}

type question struct {
	Op       string
	Manager  string
	Live     any
	Config   any
	Force    bool
	Managers map[string]manager
	// Strategic merge patches.
	Kind     string
	Original json.RawMessage
	Modified json.RawMessage
	Current  json.RawMessage
}

func main() {
	parser, err := typed.NewParser(typed.YAMLObject(schema))
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			panic(err)
		}
		var answer map[string]any
		if q.Op == "strategic" {
			answer = strategic(q)
		} else {
			answer = owned(parser.Type("obj"), q)
		}
		text, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(text))
	}
}

// owned applies or updates with field ownership.
func owned(t typed.ParseableType, q question) map[string]any {
	managers := fieldpath.ManagedFields{}
	for name, m := range q.Managers {
		set := &fieldpath.Set{}
		if err := set.FromJSON(bytes.NewReader(m.Fields)); err != nil {
			panic(err)
		}
		managers[name] = fieldpath.NewVersionedSet(set, "v1", m.Applied)
	}
	live, err := t.FromUnstructured(q.Live, typed.AllowDuplicates)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	config, err := t.FromUnstructured(q.Config)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	updater := (&merge.UpdaterBuilder{Converter: oneVersion{}, ReturnInputOnNoop: true}).BuildUpdater()
	var result *typed.TypedValue
	if q.Op == "apply" {
		result, managers, err = updater.Apply(live, config, "v1", managers, q.Manager, q.Force)
	} else {
		result, managers, err = updater.Update(live, config, "v1", managers, q.Manager)
	}
	if err != nil {
		if conflicts, ok := err.(merge.Conflicts); ok {
			paths := []string{}
			for _, conflict := range conflicts {
				paths = append(paths, conflict.Manager+" "+conflict.Path.String())
			}
			sort.Strings(paths)
			return map[string]any{"conflicts": paths}
		}
		return map[string]any{"error": err.Error()}
	}
	out := map[string]manager{}
	for name, m := range managers {
		fields, err := m.Set().ToJSON()
		if err != nil {
			panic(err)
		}
		out[name] = manager{m.Applied(), fields}
	}
	return map[string]any{"object": result.AsValue().Unstructured(), "managers": out}
}

// strategic makes the patch kubectl apply would send, and applies it.
func strategic(q question) map[string]any {
	kinds := map[string]any{
		"Pod": corev1.Pod{}, "Deployment": appsv1.Deployment{}, "Service": corev1.Service{}, "ConfigMap": corev1.ConfigMap{},
	}
	kind := kinds[q.Kind]
	meta, err := strategicpatch.NewPatchMetaFromStruct(kind)
	if err != nil {
		panic(err)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(q.Original, q.Modified, q.Current, meta, true)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	result, err := strategicpatch.StrategicMergePatch(q.Current, patch, kind)
	if err != nil {
		return map[string]any{"patch": json.RawMessage(patch), "error": err.Error()}
	}
	return map[string]any{"patch": json.RawMessage(patch), "object": json.RawMessage(result)}
}
