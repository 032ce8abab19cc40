/* Runs a fuzz target over the files of its corpus, without a fuzzer: the corpora as regressions. Linked with one target.
 * usage: replay FILE-OR-DIRECTORY... */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long replay_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(1);
  }
  uint8_t *data = malloc(1 << 20);
  if (!data) abort();
  size_t size = fread(data, 1, 1 << 20, file);
  fclose(file);
  uint8_t *exact = malloc(size ? size : 1); /* so that reading past the input is seen */
  if (!exact) abort();
  for (size_t i = 0; i < size; i++) exact[i] = data[i];
  free(data);
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
  return 1;
}

static unsigned long replay(const char *path) {
  struct stat facts;
  if (stat(path, &facts)) {
    perror(path);
    exit(1);
  }
  if (!S_ISDIR(facts.st_mode)) return replay_file(path);
  unsigned long count = 0;
  DIR *directory = opendir(path);
  if (!directory) {
    perror(path);
    exit(1);
  }
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char name[4096];
    if (entry->d_name[0] == '.') continue;
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    count += replay(name);
  }
  closedir(directory);
  return count;
}

int main(int count, char **arguments) {
  unsigned long files = 0;
  for (int i = 1; i < count; i++) files += replay(arguments[i]);
  printf("%lu inputs\n", files);
  return files ? 0 : 1;
}
