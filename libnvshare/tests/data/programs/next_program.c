// Prints what the first library finds behind itself: by a name of its own, and by a name of the driver.
#include <stdio.h>
#include <string.h>

void *behind_first(const char *symbol);
int cuInit(unsigned int flags);

int main(void) {
    const char *(*which)(void);
    int (*init)(unsigned int);
    void *found = behind_first("which_library");
    memcpy(&which, &found, sizeof which);
    found = behind_first("cuInit");
    memcpy(&init, &found, sizeof init);
    printf("{\"which\": \"%s\", \"init\": %d}\n", which(), init(7));
    return 0;
}
